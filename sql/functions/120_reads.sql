-- What people ask about tasks.

create or replace function pgqueue.get_task(p_id bigint) returns setof pgqueue.all_tasks
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
begin
    return query select a.* from pgqueue.all_tasks a where a.id = p_id;
    if not found then
        perform pgqueue._task_not_found(p_id);
    end if;
end $$;

comment on function pgqueue.get_task(bigint) is 'One task, live or finished; QU102 if there is none.';

create or replace function pgqueue.get_progress(p_id bigint)
returns table (
    task_id bigint, status text, progress int, message text, step text, completed_steps int, total_steps int, updated_at timestamptz
)
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
begin
    return query
    select
        a.id, a.status,
        case when a.status = 'completed' then 100 else coalesce(p.progress, (a.progress ->> 'progress')::int, 0) end,
        coalesce(p.message, a.progress ->> 'message'),
        coalesce(p.step, a.progress ->> 'step'),
        coalesce(p.completed_steps, (a.progress ->> 'completed_steps')::int),
        coalesce(p.total_steps, (a.progress ->> 'total_steps')::int),
        coalesce(a.finished_at, p.updated_at, a.started_at, a.created_at)
    from pgqueue.all_tasks a
    left join pgqueue.task_progress p on p.task_id = a.id
    where a.id = p_id;
    if not found then
        perform pgqueue._task_not_found(p_id);
    end if;
end $$;

comment on function pgqueue.get_progress(bigint) is 'How far a task is; 100 once it is completed, whatever it reported last.';

-- Newest id first. Running tasks are found through claims, because no index knows a status.
create or replace function pgqueue.list_tasks(
    p_queue_name text default null,
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_limit int default 20,
    p_offset bigint default 0,
    p_before_id bigint default null
) returns setof pgqueue.all_tasks
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform pgqueue._check_filter(p_status, p_limit, p_offset);
    return query
    select a.*
    from pgqueue.all_tasks a
    where (p_queue_name is null or a.queue_name = p_queue_name)
    and (p_status is null or a.status = p_status)
    and (p_status is distinct from 'running' or a.id = any(array(select i.id from pgqueue.claims c cross join unnest(c.ids) as i (id))))
    and (p_task_type is null or a.task_type = p_task_type)
    and (p_user_id is null or a.user_id = p_user_id)
    and (p_project_id is null or a.project_id = p_project_id)
    and (p_created_from is null or a.created_at >= p_created_from)
    and (p_created_to is null or a.created_at < p_created_to)
    and (p_before_id is null or a.id < p_before_id)
    order by a.id desc
    limit p_limit offset p_offset;
end $$;

comment on function pgqueue.list_tasks(text, text, text, text, text, timestamptz, timestamptz, int, bigint, bigint) is
'Tasks that match every filter given, newest id first.';

-- Counts over at most p_most matching rows, so that no list waits for its total.
create or replace function pgqueue.count_tasks(
    p_queue_name text default null,
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_most int default 10000
) returns table (total bigint, is_capped boolean)
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform pgqueue._check_filter(p_status, 1, 0);
    return query
    select least(count(*), p_most), count(*) > p_most
    from (
        select
        from pgqueue.list_tasks(
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_most + 1
        )
    ) counted;
end $$;

comment on function pgqueue.count_tasks(text, text, text, text, text, timestamptz, timestamptz, int) is
'How many tasks match a list_tasks, up to p_most.';

create or replace function pgqueue._check_filter(p_status text, p_limit int, p_offset bigint) returns void
language plpgsql immutable
as $$
begin
    if p_status not in ('blocked', 'pending', 'running', 'completed', 'failed', 'cancelled') then
        raise exception using errcode = 'QU001',
            message = format('there is no status %L', p_status),
            detail = jsonb_build_object('status', p_status),
            hint = 'The statuses are blocked, pending, running, completed, failed and cancelled.';
    end if;
    if p_limit < 1 or p_offset < 0 then
        raise exception using errcode = 'QU001',
            message = format('a page cannot have %s rows from row %s on', p_limit, p_offset),
            detail = jsonb_build_object('limit', p_limit, 'offset', p_offset),
            hint = 'Pages and page sizes start at 1.';
    end if;
end $$;

comment on function pgqueue._check_filter(text, int, bigint) is 'Raises QU001 for a filter that can match nothing.';

create or replace function pgqueue.get_executions(p_id bigint) returns setof pgqueue.executions
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
begin
    return query select e.* from pgqueue.executions e where e.task_id = p_id order by e.attempt, e.finished_at;
end $$;

comment on function pgqueue.get_executions(bigint) is 'The ended attempts of a task, in their order.';

create or replace function pgqueue.get_logs(p_id bigint, p_after bigint default 0, p_limit int default 1000) returns setof pgqueue.task_logs
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
begin
    return query select l.* from pgqueue.task_logs l where l.task_id = p_id and l.id > p_after order by l.id limit p_limit;
end $$;

comment on function pgqueue.get_logs(bigint, bigint, int) is 'What a task logged after a line, in order of arrival.';

-- Failed and cancelled tasks that retry_task would accept, newest first.
create or replace function pgqueue.get_retryable_tasks(p_limit int default 100, p_queue_name text default null) returns setof pgqueue.all_tasks
language plpgsql stable security definer set search_path = ''
as $$
begin
    return query
    select a.*
    from pgqueue.all_tasks a
    where a.status in ('failed', 'cancelled')
    and (p_queue_name is null or a.queue_name = p_queue_name)
    and not exists (
        select from pgqueue.tasks t where t.task_type = a.task_type and t.unique_key = a.unique_key
    )
    order by a.id desc
    limit p_limit;
end $$;

comment on function pgqueue.get_retryable_tasks(int, text) is 'Failed and cancelled tasks that can be retried now.';

-- The first reason that holds, in the order in which an operator would ask.
create or replace function pgqueue.why_waiting(p_id bigint) returns text
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_task pgqueue.tasks;
    v_queue pgqueue.queues;
    v_now timestamptz := pgqueue._now();
    v_workers int;
    v_slots int;
    v_running int;
    v_ahead bigint;
begin
    select t.* into v_task from pgqueue.tasks t where t.id = p_id;
    if not found then
        return (select format('it does not wait: it is %s', s.status) from pgqueue.get_task(p_id) s limit 1);
    end if;
    if v_task.status = 'running' then
        return format('it does not wait: worker %s runs it since %s', v_task.worker_id, v_task.started_at);
    elsif v_task.status = 'blocked' then
        return format('blocked by %s unfinished task(s)', v_task.waits_for);
    end if;
    select q.* into v_queue from pgqueue.queues q where q.name = v_task.queue_name;
    if v_queue.paused_at is not null then
        return format('queue %L is paused since %s%s', v_queue.name, v_queue.paused_at, coalesce(': ' || v_queue.pause_reason, ''));
    elsif v_task.run_at > v_now then
        return format('not due until %s%s', v_task.run_at, case when v_task.failures > 0 then format(' (retry after: %s)', v_task.error) else '' end);
    end if;
    select count(*), sum(coalesce((w.concurrency ->> v_task.queue_name)::int, v_queue.concurrency)) into v_workers, v_slots
    from pgqueue.workers w
    where v_task.queue_name = any(w.queues) and w.lost_at is null and w.heartbeat_at + w.lease > v_now;
    if v_workers = 0 then
        return format('no worker serves queue %L', v_task.queue_name);
    elsif v_slots = 0 then
        return format('the workers of queue %L have a concurrency of 0', v_task.queue_name);
    end if;
    select count(*) into v_running
    from pgqueue.claims c
    join pgqueue.tasks t on t.id = any(c.ids)
    where t.status = 'running' and t.queue_name = v_task.queue_name and t.worker_id = c.worker_id and t.claim_no = c.claim_no;
    select count(*) into v_ahead
    from (
        select
        from pgqueue.tasks t
        where t.queue_name = v_task.queue_name and t.waits_for = 0 and t.status = 'pending' and t.run_at <= v_now
        and (t.rank, t.run_at, t.id) < (v_task.rank, v_task.run_at, v_task.id)
        limit 1000
    ) ahead;
    if v_running >= v_slots then
        return format('no free slot: %s of %s are busy, %s task(s) ahead of it', v_running, v_slots, v_ahead);
    end if;
    return format('it is due: %s task(s) ahead of it, %s of %s slots free', v_ahead, v_slots - v_running, v_slots);
end $$;

comment on function pgqueue.why_waiting(bigint) is 'Why a task does not run, in one line of plain words.';
