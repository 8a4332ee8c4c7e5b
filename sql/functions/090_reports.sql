-- What a running task says of itself: progress, result, log. Each write tests the lease, under a lock that
-- keeps the attempt from ending while it is written.

-- p_attempt null: the caller is not the handler and takes whichever attempt runs.
-- Lock order: the task (KEY SHARE), then the report.
create or replace function pgqueue._hold_lease(p_id bigint, p_attempt int) returns int
language plpgsql volatile
as $$
declare
    v_attempt int;
    v_status text;
begin
    select t.attempt into v_attempt
    from pgqueue.tasks t
    where t.id = p_id and t.status = 'running' and t.attempt = coalesce(p_attempt, t.attempt)
    for key share;
    if found then
        return v_attempt;
    end if;
    select s.status into v_status from pgqueue._states(array[p_id]) s limit 1;
    if v_status is null then
        perform pgqueue._task_not_found(p_id);
    elsif p_attempt is null then
        perform pgqueue._invalid_transition(p_id, v_status, 'reported on', 'Progress and logs belong to running tasks.');
    end if;
    raise exception using errcode = 'QU301',
        message = format('attempt %s of task %s has lost its lease: the task is %s', p_attempt, p_id, v_status),
        detail = jsonb_build_object('task_id', p_id, 'attempt', p_attempt, 'status', v_status),
        hint = 'The task was given to another worker or ended. Stop this attempt.';
end $$;

comment on function pgqueue._hold_lease(bigint, int) is 'Keeps an attempt running while its caller writes; QU301 if it does not run any more.';

create or replace function pgqueue.update_progress(
    p_id bigint,
    p_progress int,
    p_message text default null,
    p_step text default null,
    p_completed_steps int default null,
    p_total_steps int default null,
    p_attempt int default null
) returns void
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_now timestamptz := pgqueue._now();
begin
    perform pgqueue._hold_lease(p_id, p_attempt);
    insert into pgqueue.task_progress as p (task_id, progress, message, step, completed_steps, total_steps, updated_at)
    values (p_id, p_progress, left(p_message, 4000), left(p_step, 1000), p_completed_steps, p_total_steps, v_now)
    on conflict (task_id) do update set
        progress = excluded.progress, message = excluded.message, step = excluded.step,
        completed_steps = excluded.completed_steps, total_steps = excluded.total_steps, updated_at = excluded.updated_at;
    if exists (select from pgqueue.listeners) then
        perform pgqueue._publish_progress(array[p_id]);
    end if;
end $$;

comment on function pgqueue.update_progress(bigint, int, text, text, int, int, int) is
'Reports percent, message and steps of a running task; with p_attempt only while that attempt holds the lease.';

create or replace function pgqueue._publish_progress(p_ids bigint[]) returns void
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
begin
    perform pgqueue._publish(array(
        select jsonb_build_object(
            'kind', 'progress', 'task_id', p.task_id, 'queue_name', t.queue_name, 'progress', p.progress,
            'message', left(p.message, 500), 'step', left(p.step, 200),
            'completed_steps', p.completed_steps, 'total_steps', p.total_steps
        )
        from pgqueue.task_progress p
        join pgqueue.tasks t on t.id = p.task_id
        where p.task_id = any(p_ids)
        and exists (
            select from pgqueue.listeners l
            where l.fresh_until > pgqueue._now()
            and (l.scope = 'all' or l.task_id = t.id or l.queue_name = t.queue_name)
        )
    ));
end $$;

comment on function pgqueue._publish_progress(bigint[]) is 'Publishes the last reports of tasks to their followers.';

-- What a worker's handlers reported since it last wrote: objects with task_id, attempt and the fields of
-- update_progress; the last one of an attempt counts. Returns the tasks whose attempt does not run any more.
-- Lock order: tasks by id (KEY SHARE), then their reports by task.
create or replace function pgqueue.report_progress(p_reports jsonb) returns bigint[]
language plpgsql volatile security definer
set search_path = '' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_given bigint[] := array(select (r ->> 'task_id')::bigint from jsonb_array_elements(p_reports) as r);
    v_held bigint[];
    v_attempts int[];
begin
    select coalesce(array_agg(h.id), '{}'), array_agg(h.attempt)
    into v_held, v_attempts
    from (
        select t.id, t.attempt
        from pgqueue.tasks t
        join (select distinct r.task_id, r.attempt from jsonb_to_recordset(p_reports) as r (task_id bigint, attempt int)) g
            on g.task_id = t.id and g.attempt = t.attempt
        where t.id = any(v_given) and t.status = 'running'
        order by t.id
        for key share of t
    ) h;
    insert into pgqueue.task_progress as p (task_id, progress, message, step, completed_steps, total_steps, updated_at)
    select distinct on (g.task_id)
        g.task_id, g.progress, left(g.message, 4000), left(g.step, 1000), g.completed_steps, g.total_steps, v_now
    from rows from (
        jsonb_to_recordset(p_reports) as (
            task_id bigint, attempt int, progress int, message text, step text, completed_steps int, total_steps int
        )
    ) with ordinality as g (task_id, attempt, progress, message, step, completed_steps, total_steps, nr)
    join unnest(v_held, v_attempts) as h (id, attempt) on h.id = g.task_id and h.attempt = g.attempt
    order by g.task_id, g.nr desc
    on conflict (task_id) do update set
        progress = excluded.progress, message = excluded.message, step = excluded.step,
        completed_steps = excluded.completed_steps, total_steps = excluded.total_steps, updated_at = excluded.updated_at;
    if exists (select from pgqueue.listeners) then
        perform pgqueue._publish_progress(v_held);
    end if;
    return array(select g.id from unnest(v_given) as g (id) where not g.id = any(v_held));
end $$;

comment on function pgqueue.report_progress(jsonb) is 'Writes the progress of many running attempts; returns the tasks whose lease is lost.';

-- Stored with a live task until it ends, or with a finished one at once.
create or replace function pgqueue.set_task_result(p_id bigint, p_result jsonb, p_attempt int default null) returns void
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
begin
    if p_attempt is not null then
        perform pgqueue._hold_lease(p_id, p_attempt);
    end if;
    update pgqueue.tasks t set result = p_result where t.id = p_id;
    if not found then
        update pgqueue.finished_tasks f set result = p_result where f.id = p_id;
        if not found then
            perform pgqueue._task_not_found(p_id);
        end if;
    end if;
end $$;

comment on function pgqueue.set_task_result(bigint, jsonb, int) is 'Stores the result of a task; a value that its handler returns replaces it.';

-- Lines of running attempts: objects with task_id, attempt, level, message, fields and ago (seconds since it
-- was logged). Lines of an attempt that lost its lease are left out.
-- Lock order: tasks by id (KEY SHARE).
create or replace function pgqueue.write_logs(p_lines jsonb) returns int
language plpgsql volatile security definer
set search_path = '' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_nestloop = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_held bigint[];
    v_attempts int[];
    v_count int;
begin
    perform pgqueue._need_partition(v_now);
    select array_agg(h.id), array_agg(h.attempt)
    into v_held, v_attempts
    from (
        select t.id, t.attempt
        from pgqueue.tasks t
        join (select distinct l.task_id, l.attempt from jsonb_to_recordset(p_lines) as l (task_id bigint, attempt int)) g
            on g.task_id = t.id and g.attempt = t.attempt
        where t.id = any(array(select (l ->> 'task_id')::bigint from jsonb_array_elements(p_lines) as l)) and t.status = 'running'
        order by t.id
        for key share of t
    ) h;
    insert into pgqueue.task_logs (task_id, attempt, logged_at, level, message, fields)
    select
        g.task_id, g.attempt,
        greatest(v_now - pgqueue._seconds(coalesce(g.ago, 0)), date_trunc('day', v_now at time zone 'UTC') at time zone 'UTC'),
        g.level, left(g.message, 65536), g.fields
    from rows from (
        jsonb_to_recordset(p_lines) as (
            task_id bigint, attempt int, level text, message text, fields jsonb, ago double precision
        )
    ) with ordinality as g (task_id, attempt, level, message, fields, ago, nr)
    join unnest(v_held, v_attempts) as h (id, attempt) on h.id = g.task_id and h.attempt = g.attempt
    order by g.nr;
    get diagnostics v_count = row_count;
    return v_count;
end $$;

comment on function pgqueue.write_logs(jsonb) is 'Keeps what running attempts logged; returns how many lines.';
