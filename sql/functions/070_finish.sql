-- An attempt ends. The only statements that take a task out of running.

-- Statistics count once and for all what ended before a moment. So that nothing ends there afterwards, the
-- end of a task is not before the floor, which is read after the transaction has its id and the lock that the row
-- will need: whoever raises the floor and then waits for all older transactions that have this lock (see _is_past)
-- has seen everything below it. It is above the clock only where the clock was set back; by more than an hour, the clock
-- is right.
create or replace function pgqueue._finish_time() returns timestamptz
language plpgsql volatile
as $$
declare
    v_xid xid8 not null := pg_current_xact_id();
    v_now timestamptz;
    v_floor timestamptz;
begin
    lock table only pgqueue.finished_tasks in row exclusive mode;
    v_now := pgqueue._now();
    v_floor := pgqueue._finish_floor();
    if v_floor > v_now and v_floor < v_now + interval '1 hour' then
        return v_floor;
    end if;
    return v_now;
end $$;

comment on function pgqueue._finish_time() is 'When a task ends that ends now; to be called before the row is written, by whoever writes it.';

create or replace function pgqueue._finish_floor() returns timestamptz
language plpgsql volatile
as $$
begin
    return timestamptz 'epoch' + coalesce(pg_sequence_last_value('pgqueue.finish_floor'), 0) * interval '1 microsecond';
end $$;

comment on function pgqueue._finish_floor() is 'The moment before which no task ends any more.';

-- How long to wait before the attempt after the n-th failure. p_retry is an object: strategy quadratic
-- (base · n² seconds: 1, 4, 9 …, the default), fixed (base) or exponential (base · 2ⁿ⁻¹); cap in seconds;
-- jitter, the share of the delay that chance may take away.
create or replace function pgqueue._retry_delay(p_failures int, p_retry jsonb) returns interval
language plpgsql volatile
as $$
declare
    v_strategy text := coalesce(p_retry ->> 'strategy', 'quadratic');
    v_base double precision := coalesce((p_retry ->> 'base')::double precision, 1);
    v_cap double precision := coalesce((p_retry ->> 'cap')::double precision, 86400);
    v_jitter double precision := coalesce((p_retry ->> 'jitter')::double precision, 0);
    v_n double precision := least(greatest(p_failures, 1), 1000000);
    v_seconds double precision;
begin
    v_seconds := case v_strategy
        when 'fixed' then v_base
        when 'exponential' then v_base * 2 ^ least(v_n - 1, 40)
        else v_base * v_n * v_n
    end;
    v_seconds := least(v_seconds, v_cap, 31536000);
    return make_interval(secs => greatest(v_seconds * (1 - v_jitter * random()), 0));
end $$;

comment on function pgqueue._retry_delay(int, jsonb) is 'The delay after the n-th failure by a retry policy.';

-- What becomes of a running task whose attempt ended this way. Success wins over a pending cancel; any
-- other end that would start it again yields to one.
create or replace function pgqueue._verdict(p_task pgqueue.tasks, p_failure jsonb) returns text
language plpgsql stable
as $$
declare
    v_outcome text := p_failure ->> 'outcome';
begin
    if p_failure is null then
        return 'completed';
    elsif v_outcome is null or v_outcome not in ('failed', 'timed_out', 'cancelled', 'lost', 'released', 'snoozed') then
        perform pgqueue._unknown_outcome(p_task.id, p_failure);
    elsif v_outcome = 'cancelled' then
        return 'cancelled';
    elsif v_outcome in ('failed', 'timed_out')
    and (p_task.failures >= p_task.max_retries or coalesce((p_failure ->> 'permanent')::boolean, false)) then
        return 'failed';
    elsif v_outcome = 'lost'
    and p_task.crashes + 1 >= coalesce((select q.max_crashes from pgqueue.queues q where q.name = p_task.queue_name), 3) then
        return 'failed';
    elsif p_task.cancel_requested_at is not null then
        return 'cancelled';
    end if;
    return 'pending';
end $$;

comment on function pgqueue._verdict(pgqueue.tasks, jsonb) is 'The status that follows an ended attempt.';

create or replace function pgqueue._unknown_outcome(p_id bigint, p_failure jsonb) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU001',
        message = format('an attempt of task %s cannot end as %s', p_id, left(coalesce(p_failure ->> 'outcome', p_failure::text), 200)),
        detail = jsonb_build_object('task_id', p_id, 'outcome', left(p_failure ->> 'outcome', 200)),
        hint = 'The outcome of a failure is failed, timed_out, cancelled, lost, released or snoozed; success has no failure.';
end $$;

comment on function pgqueue._unknown_outcome(bigint, jsonb) is 'Raises QU001 for an outcome that there is not.';

-- When the handler started, by the worker's own measure, which must fit between claim and now.
create or replace function pgqueue._handler_started(p_claimed_at timestamptz, p_now timestamptz, p_elapsed_us bigint) returns timestamptz
language sql stable parallel safe
as $$
    select case
        when p_elapsed_us between 0 and 31536000000000 then greatest(p_claimed_at, p_now - p_elapsed_us * interval '1 microsecond')
        else p_claimed_at
    end
$$;

comment on function pgqueue._handler_started(timestamptz, timestamptz, bigint) is 'The start of a handler that ran so many microseconds; else that of its claim.';

-- Ends the attempts (p_ids[i], p_attempts[i]). p_failures[i] is null for success, else an object: outcome
-- (failed, timed_out, cancelled, lost, released, snoozed), permanent, delay, retry, error_type, error_message,
-- traceback. Returns the ids it did not settle: their lease is lost, or (unless p_wait) somebody else holds
-- the row at this moment. An attempt that is given twice ends as it was given first.
-- A completed task tells its attempt by itself (pgqueue.executions); what else an attempt came to is a row of attempts.
-- Lock order: tasks by id, then their progress; history tables only grow.
create or replace function pgqueue.finish(
    p_ids bigint[],
    p_attempts int[],
    p_elapsed_us bigint[] default null,
    p_results jsonb[] default null,
    p_failures jsonb[] default null,
    p_wait boolean default false
) returns bigint[]
language plpgsql volatile security definer
set search_path = '' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_now timestamptz := pgqueue._finish_time();
    v_ids bigint[];
    v_settled bigint[];
begin
    perform pgqueue._need_partition(v_now);
    v_ids := pgqueue._lock_running(p_ids, p_attempts, p_wait);
    if p_failures is not null then
        v_settled := pgqueue._put_back(v_ids, p_ids, p_attempts, p_elapsed_us, p_failures, v_now);
    end if;
    with ended as (
        delete from pgqueue.tasks t
        using (
            select distinct on (u.id, u.attempt) u.id, u.attempt, u.elapsed_us, u.result, u.failure
            from unnest(p_ids, p_attempts, p_elapsed_us, p_results, p_failures) with ordinality
                as u (id, attempt, elapsed_us, result, failure, nr)
            order by u.id, u.attempt, u.nr
        ) g
        where t.id = any(v_ids)
        and g.id = t.id
        and g.attempt = t.attempt
        and t.status = 'running'
        returning
            t.id, t.task_type, t.queue_name, t.priority, t.payload, t.max_retries, t.timeout, t.run_at, t.unique_key, t.user_id,
            t.project_id, t.metadata, t.attempt, t.failures, t.crashes, t.worker_id, t.created_at, t.error, t.cancel_reason,
            t.parent_id,
            g.failure,
            coalesce(g.result, t.result) as result,
            case when g.failure is null then 'completed' else pgqueue._verdict(t, g.failure) end as verdict,
            case
                when g.elapsed_us between 0 and 31536000000000
                    then greatest(t.started_at, v_now - g.elapsed_us * interval '1 microsecond')
                else t.started_at
            end as handler_started_at
    ),
    reported as (
        delete from pgqueue.task_progress p
        where p.task_id = any(v_ids)
        and not p.task_id = any(coalesce(v_settled, '{}'))
        returning p.task_id, pgqueue._progress_json(p) as progress
    ),
    executed as (
        insert into pgqueue.attempts (
            task_id, attempt, worker_id, started_at, finished_at, outcome, error_type, error_message, traceback
        )
        select
            e.id, e.attempt, e.worker_id, e.handler_started_at, v_now, e.failure ->> 'outcome',
            left(e.failure ->> 'error_type', 1000), left(e.failure ->> 'error_message', 65536), left(e.failure ->> 'traceback', 65536)
        from ended e
        where e.verdict <> 'completed'
    ),
    recorded as (
        insert into pgqueue.finished_tasks (
            id, task_type, queue_name, priority, payload, status, max_retries, timeout, run_at, unique_key, user_id,
            project_id, metadata, attempt, failures, crashes, worker_id, created_at, started_at, finished_at,
            result, error, progress, parent_id
        )
        select
            e.id, e.task_type, e.queue_name, e.priority, e.payload, e.verdict, e.max_retries, e.timeout, e.run_at,
            e.unique_key, e.user_id, e.project_id, e.metadata, e.attempt,
            e.failures + coalesce(e.failure ->> 'outcome' in ('failed', 'timed_out'), false)::int,
            e.crashes + coalesce(e.failure ->> 'outcome' = 'lost', false)::int,
            e.worker_id, e.created_at, e.handler_started_at, v_now,
            e.result,
            case when e.verdict <> 'completed' then coalesce(pgqueue._error_text(e.failure), e.cancel_reason) end,
            r.progress, e.parent_id
        from ended e
        left join reported r on r.task_id = e.id
    )
    select v_settled || array_agg(e.id) into v_settled from ended e;
    if v_settled is not null and exists (select from pgqueue.listeners) then
        perform pgqueue._publish_status(v_settled);
    end if;
    if cardinality(v_settled) = cardinality(p_ids) then
        return '{}';
    end if;
    return array(select g.id from unnest(p_ids) as g (id) where not g.id = any(coalesce(v_settled, '{}')));
end $$;

comment on function pgqueue.finish(bigint[], int[], bigint[], jsonb[], jsonb[], boolean) is
'Ends attempts: moves their tasks to finished_tasks or back to pending, records what did not complete; returns the ids it could not settle.';

-- Locks the attempts that still run, in the order of their ids, so that two batches never deadlock. From
-- here to the commit nobody else can change them.
create or replace function pgqueue._lock_running(p_ids bigint[], p_attempts int[], p_wait boolean) returns bigint[]
language plpgsql volatile
set plan_cache_mode = force_generic_plan
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off
as $$
begin
    if p_wait then
        perform from pgqueue.tasks t where t.id = any(p_ids) order by t.id for update;
    end if;
    return array(
        select t.id
        from pgqueue.tasks t
        join unnest(p_ids, p_attempts) as g (id, attempt) on g.id = t.id and g.attempt = t.attempt
        where t.id = any(p_ids)
        and t.status = 'running'
        order by t.id
        for update of t skip locked
    );
end $$;

comment on function pgqueue._lock_running(bigint[], int[], boolean) is
'Locks the attempts that still run and returns their tasks, waiting for other sessions or passing over what they hold.';

-- The part of finish that starts tasks again: their attempt is recorded, their counters grow, and they
-- wait for run_at. A released or lost task keeps its place in line.
create or replace function pgqueue._put_back(
    p_locked bigint[], p_ids bigint[], p_attempts int[], p_elapsed_us bigint[], p_failures jsonb[], p_now timestamptz
) returns bigint[]
language plpgsql volatile
set plan_cache_mode = force_generic_plan
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off
as $$
declare
    v_ids bigint[];
begin
    with again as (
        select
            t.id, t.attempt, t.queue_name, t.worker_id, t.failures, g.failure, g.failure ->> 'outcome' as outcome,
            pgqueue._handler_started(t.started_at, p_now, g.elapsed_us) as started_at
        from pgqueue.tasks t
        join (
            select distinct on (u.id, u.attempt) u.*
            from unnest(p_ids, p_attempts, p_elapsed_us, p_failures) with ordinality as u (id, attempt, elapsed_us, failure, nr)
            order by u.id, u.attempt, u.nr
        ) g on g.id = t.id and g.attempt = t.attempt
        where t.id = any(p_locked)
        and g.failure is not null
        and pgqueue._verdict(t, g.failure) = 'pending'
    ),
    waiting as (
        update pgqueue.tasks t
        set status = 'pending', worker_id = null, claim_no = null, started_at = null,
            failures = t.failures + (a.outcome in ('failed', 'timed_out'))::int,
            crashes = t.crashes + (a.outcome = 'lost')::int,
            error = coalesce(pgqueue._error_text(a.failure), t.error),
            run_at = case
                when a.outcome in ('released', 'lost') then t.run_at
                when a.failure ->> 'delay' is not null then p_now + pgqueue._seconds((a.failure ->> 'delay')::double precision)
                when a.outcome = 'snoozed' then p_now
                else p_now + pgqueue._retry_delay(a.failures + 1, a.failure -> 'retry')
            end
        from again a
        where t.id = any(p_locked)
        and t.id = a.id
        returning t.queue_name, t.rank, t.run_at
    ),
    -- Where somebody is at the note (see _sweep_lanes), it is not waited for: the next look from the start finds the task.
    lowered as (
        update pgqueue.lane_floors f
        set due_from = b.run_at
        from (
            select l.queue_name, l.rank, w.run_at
            from pgqueue.lane_floors l
            join (select w.queue_name, w.rank, min(w.run_at) as run_at from waiting w group by w.queue_name, w.rank) w
            on w.queue_name = l.queue_name and w.rank = l.rank and w.run_at < l.due_from
            for update of l skip locked
        ) b
        where f.queue_name = b.queue_name and f.rank = b.rank
    ),
    executed as (
        insert into pgqueue.attempts (
            task_id, attempt, worker_id, started_at, finished_at, outcome, error_type, error_message, traceback
        )
        select
            a.id, a.attempt, a.worker_id, a.started_at, p_now, a.outcome,
            left(a.failure ->> 'error_type', 1000), left(a.failure ->> 'error_message', 65536), left(a.failure ->> 'traceback', 65536)
        from again a
    ),
    by_queue as (
        select a.queue_name, array_agg(a.id) as ids from again a group by a.queue_name
    ),
    woken as materialized (
        select q.ids, pgqueue._wake(q.queue_name) from by_queue q
    )
    select array_agg(i.id)
    into v_ids
    from woken w
    cross join lateral unnest(w.ids) as i (id);
    return v_ids;
end $$;

comment on function pgqueue._put_back(bigint[], bigint[], int[], bigint[], jsonb[], timestamptz) is
'Ends attempts whose tasks start again; returns their ids.';

create or replace function pgqueue._error_text(p_failure jsonb) returns text
language sql immutable parallel safe
as $$
    select left(nullif(concat_ws(': ', p_failure ->> 'error_type', p_failure ->> 'error_message'), ''), 65536)
$$;

comment on function pgqueue._error_text(jsonb) is 'An error in one line, as tasks and finished_tasks keep it.';

create or replace function pgqueue._progress_json(p_progress pgqueue.task_progress) returns jsonb
language sql immutable
as $$
    select jsonb_build_object(
        'progress', p_progress.progress, 'message', p_progress.message, 'step', p_progress.step,
        'completed_steps', p_progress.completed_steps, 'total_steps', p_progress.total_steps,
        'updated_at', p_progress.updated_at
    )
$$;

comment on function pgqueue._progress_json(pgqueue.task_progress) is 'A progress report as finished_tasks keeps it.';
