-- Somebody wants a task stopped, or tried again.

create or replace function pgqueue._task_not_found(p_id bigint) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU102',
        message = format('there is no task %s', p_id),
        detail = jsonb_build_object('task_id', p_id),
        hint = 'It may have been cleaned up; pgqueue.all_tasks shows what is kept.';
end $$;

comment on function pgqueue._task_not_found(bigint) is 'Raises QU102.';

create or replace function pgqueue._invalid_transition(p_id bigint, p_status text, p_verb text, p_hint text) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU201',
        message = format('task %s is %s and cannot be %s', p_id, p_status, p_verb),
        detail = jsonb_build_object('task_id', p_id, 'status', p_status),
        hint = p_hint;
end $$;

comment on function pgqueue._invalid_transition(bigint, text, text, text) is 'Raises QU201.';

-- Pending and blocked tasks end at once; a running one is asked to stop, through its worker. Returns the
-- status that the task has then. Cancelling what is cancelled already changes nothing.
-- Lock order: the task, then its progress.
create or replace function pgqueue.cancel_task(p_id bigint, p_reason text default null) returns text
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_reason text := left(p_reason, 65536);
    v_task pgqueue.tasks;
    v_status text;
begin
    -- NO KEY: the reports of a running attempt (KEY SHARE) go on while an application holds this open.
    select t.* into v_task from pgqueue.tasks t where t.id = p_id for no key update;
    if not found then
        select f.status into v_status from pgqueue.finished_tasks f where f.id = p_id order by f.finished_at desc limit 1;
        if v_status is null then
            perform pgqueue._task_not_found(p_id);
        elsif v_status <> 'cancelled' then
            perform pgqueue._invalid_transition(p_id, v_status, 'cancelled', 'Only blocked, pending and running tasks can be cancelled.');
        end if;
        return v_status;
    end if;
    if v_task.status = 'running' then
        update pgqueue.tasks t
        set cancel_requested_at = coalesce(t.cancel_requested_at, pgqueue._now()), cancel_reason = coalesce(t.cancel_reason, v_reason)
        where t.id = p_id;
        perform pgqueue._notify('pgqueue_control', jsonb_build_object('kind', 'cancel', 'worker_id', v_task.worker_id, 'task_id', p_id)::text);
        return 'running';
    end if;
    perform pgqueue._cancel_waiting(array[p_id], v_reason);
    return 'cancelled';
end $$;

comment on function pgqueue.cancel_task(bigint, text) is 'Cancels a waiting task at once, asks a running one to stop; returns its status.';

create or replace function pgqueue._cancel_waiting(p_ids bigint[], p_reason text) returns void
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_now timestamptz := pgqueue._finish_time();
begin
    perform pgqueue._need_partition(v_now);
    with ended as (
        delete from pgqueue.tasks t where t.id = any(p_ids) returning t.*
    ),
    reported as (
        delete from pgqueue.task_progress p where p.task_id = any(p_ids) returning p.task_id, pgqueue._progress_json(p) as progress
    )
    insert into pgqueue.finished_tasks (
        id, task_type, queue_name, priority, payload, status, max_retries, timeout, run_at, unique_key, user_id,
        project_id, metadata, attempt, failures, crashes, created_at, finished_at, result, error, progress,
        parent_id
    )
    select
        e.id, e.task_type, e.queue_name, e.priority, e.payload, 'cancelled', e.max_retries, e.timeout, e.run_at,
        e.unique_key, e.user_id, e.project_id, e.metadata, e.attempt, e.failures, e.crashes, e.created_at, v_now,
        e.result, coalesce(p_reason, e.error), r.progress, e.parent_id
    from ended e
    left join reported r on r.task_id = e.id;
    if exists (select from pgqueue.listeners) then
        perform pgqueue._publish_status(p_ids);
    end if;
end $$;

comment on function pgqueue._cancel_waiting(bigint[], text) is 'Ends pending and blocked tasks that the caller has locked.';

drop function if exists pgqueue._cancel_waiting(bigint, text);

-- A failed or cancelled task starts again: same id, its attempts go on, its counters begin anew.
-- Lock order: the finished row, then the new one.
create or replace function pgqueue.retry_task(p_id bigint) returns bigint
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_task pgqueue.finished_tasks;
    v_live bigint;
begin
    select f.* into v_task from pgqueue.finished_tasks f where f.id = p_id for update;
    if not found then
        perform pgqueue._refuse_retry(p_id);
    elsif v_task.status = 'completed' then
        perform pgqueue._invalid_transition(p_id, 'completed', 'retried', 'Only failed and cancelled tasks can be retried; submit a new one.');
    end if;
    insert into pgqueue.tasks as t (
        id, task_type, queue_name, priority, payload, max_retries, timeout, unique_key, user_id, project_id, metadata,
        attempt, created_at, run_at, parent_id
    )
    overriding system value
    values (
        v_task.id, v_task.task_type, v_task.queue_name, v_task.priority, v_task.payload, v_task.max_retries, v_task.timeout,
        v_task.unique_key, v_task.user_id, v_task.project_id, v_task.metadata, v_task.attempt, v_task.created_at, pgqueue._now(),
        v_task.parent_id
    )
    on conflict (task_type, unique_key) where unique_key is not null do nothing
    returning t.id into v_live;
    if v_live is null then
        select t.id into v_live from pgqueue.tasks t where t.task_type = v_task.task_type and t.unique_key = v_task.unique_key;
        perform pgqueue._duplicate_task(v_live, v_task.task_type, v_task.unique_key);
    end if;
    perform pgqueue._remove_finished(array[p_id], array[v_task.finished_at], false);
    if exists (select from pgqueue.listeners) then
        perform pgqueue._publish_status(array[p_id]);
    end if;
    return p_id;
end $$;

comment on function pgqueue.retry_task(bigint) is 'Starts a failed or cancelled task again: same id, attempts go on, failures and crashes 0; returns its id.';

create or replace function pgqueue._refuse_retry(p_id bigint) returns void
language plpgsql
as $$
declare
    v_status text := (select t.status from pgqueue.tasks t where t.id = p_id);
begin
    if v_status is null then
        perform pgqueue._task_not_found(p_id);
    end if;
    perform pgqueue._invalid_transition(p_id, v_status, 'retried', 'It is live already; cancel it first, or wait for its end.');
end $$;

comment on function pgqueue._refuse_retry(bigint) is 'Raises QU102 or QU201 for a task that is not finished.';

-- It goes for good, with its result, executions and logs; statistics keep counting it.
create or replace function pgqueue.delete_task(p_id bigint) returns void
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_finished_at timestamptz;
    v_status text;
begin
    select f.finished_at into v_finished_at from pgqueue.finished_tasks f where f.id = p_id for update;
    if not found then
        select t.status into v_status from pgqueue.tasks t where t.id = p_id;
        if v_status is null then
            perform pgqueue._task_not_found(p_id);
        end if;
        perform pgqueue._invalid_transition(p_id, v_status, 'deleted', 'Cancel it first, or wait for its end.');
    end if;
    perform pgqueue._delete_finished(array[p_id], v_finished_at, v_finished_at);
end $$;

comment on function pgqueue.delete_task(bigint) is 'Deletes a task that has ended, with its executions and logs.';
