-- Many tasks are retried, cancelled or deleted by a filter, in steps: each is one short transaction that
-- passes over what others hold and remembers how far it came, so that anybody can go on with the next.

-- A filter is an object; every key that is given must fit. The result names the status that is meant.
create or replace function pgqueue._check_operation(p_kind text, p_filter jsonb) returns jsonb
language plpgsql stable
as $$
declare
    v_filter jsonb := jsonb_strip_nulls(p_filter);
    v_odd text;
    v_statuses text[] := case p_kind
        when 'retry' then array['failed', 'cancelled']
        when 'cancel' then array['pending', 'blocked', 'running']
        when 'delete' then array['completed', 'failed', 'cancelled']
    end;
begin
    if v_statuses is null then
        raise exception using errcode = 'QU001',
            message = format('an operation is retry, cancel or delete, not %L', p_kind),
            detail = jsonb_build_object('kind', p_kind),
            hint = 'For instance select pgqueue.start_operation(''retry'', ''{"queue_name": "default"}'').';
    elsif coalesce(jsonb_typeof(v_filter), '') <> 'object' or v_filter = '{}' then
        raise exception using errcode = 'QU001',
            message = format('nothing says which tasks to %s', p_kind),
            detail = jsonb_build_object('filter', p_filter),
            hint = 'Give a filter, for instance {"queue_name": "default"}, or {"all": true} for all of them.';
    end if;
    select e.key into v_odd
    from jsonb_each(v_filter) e
    where not (e.key = 'all' and e.value = 'true')
    and not (
        e.key = any(array['queue_name', 'task_type', 'status', 'user_id', 'project_id', 'unique_key', 'error'])
        or e.key = any(array['created_from', 'created_to', 'finished_from', 'finished_to'])
        and (e.value #>> '{}')::timestamptz is not null
    )
    or e.key <> 'all' and jsonb_typeof(e.value) <> 'string'
    or e.key like 'finished%' and p_kind = 'cancel'
    limit 1;
    if v_odd is not null then
        raise exception using errcode = 'QU001',
            message = format('%s cannot filter by %s = %s', p_kind, v_odd, left((v_filter -> v_odd)::text, 200)),
            detail = jsonb_build_object('field', v_odd),
            hint = 'Filters are texts: queue_name, task_type, status, user_id, project_id, unique_key, error (contains), created_from, created_to, '
                || 'and of finished tasks finished_from, finished_to.';
    elsif not coalesce(v_filter ->> 'status', v_statuses[1]) = any(v_statuses) then
        raise exception using errcode = 'QU001',
            message = format('tasks with status %L cannot be the object of %s', v_filter ->> 'status', p_kind),
            detail = jsonb_build_object('field', 'status', 'status', v_filter ->> 'status'),
            hint = format('Give one of %s.', array_to_string(v_statuses, ', '));
    end if;
    return case when p_kind = 'retry' then '{"status": "failed"}'::jsonb || v_filter else v_filter end;
end $$;

comment on function pgqueue._check_operation(text, jsonb) is
'Raises QU001 for a filter that an operation cannot have; returns it as it is meant: a retry without a status is one of failed tasks.';

-- In plain SQL, so that it becomes a part of the statements that use it.
create or replace function pgqueue._matches(
    p_filter jsonb, p_queue_name text, p_task_type text, p_status text, p_user_id text, p_project_id text, p_unique_key text,
    p_created_at timestamptz, p_finished_at timestamptz, p_error text
) returns boolean
language sql stable
as $$
    select
        (p_filter ->> 'queue_name' is null or p_queue_name = p_filter ->> 'queue_name')
        and (p_filter ->> 'status' is null or p_status = p_filter ->> 'status')
        and (p_filter ->> 'task_type' is null or p_task_type = p_filter ->> 'task_type')
        and (p_filter ->> 'user_id' is null or p_user_id = p_filter ->> 'user_id')
        and (p_filter ->> 'project_id' is null or p_project_id = p_filter ->> 'project_id')
        and (p_filter ->> 'unique_key' is null or p_unique_key = p_filter ->> 'unique_key')
        and (p_filter ->> 'created_from' is null or p_created_at >= (p_filter ->> 'created_from')::timestamptz)
        and (p_filter ->> 'created_to' is null or p_created_at < (p_filter ->> 'created_to')::timestamptz)
        and (p_filter ->> 'finished_from' is null or p_finished_at >= (p_filter ->> 'finished_from')::timestamptz)
        and (p_filter ->> 'finished_to' is null or p_finished_at < (p_filter ->> 'finished_to')::timestamptz)
        and (p_filter ->> 'error' is null or strpos(lower(p_error), lower(p_filter ->> 'error')) > 0)
$$;

comment on function pgqueue._matches(jsonb, text, text, text, text, text, text, timestamptz, timestamptz, text) is
'Whether a task fits the filter of an operation.';

-- Up to p_limit tasks that fit, by id, among the next p_look there are; and the id up to which that holds,
-- null when there are no more.
create or replace function pgqueue._find_for_operation(
    p_kind text, p_filter jsonb, p_after_id bigint, p_last_id bigint, p_limit int, p_look int
) returns table (ids bigint[], until_id bigint)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    v_from timestamptz := coalesce((p_filter ->> 'finished_from')::timestamptz, '-infinity');
    v_to timestamptz := coalesce((p_filter ->> 'finished_to')::timestamptz, 'infinity');
begin
    return query
    with looked as (
        select l.id, l.fits
        from (
            select
                f.id,
                pgqueue._matches(
                    p_filter, f.queue_name, f.task_type, f.status, f.user_id, f.project_id, f.unique_key, f.created_at, f.finished_at, f.error
                ) as fits
            from pgqueue.finished_tasks f
            where p_kind <> 'cancel' and f.id > p_after_id and f.id <= p_last_id and f.finished_at >= v_from and f.finished_at < v_to
            order by f.id
            limit p_look
        ) l
        union all
        select l.id, l.fits
        from (
            select
                t.id,
                pgqueue._matches(
                    p_filter, t.queue_name, t.task_type, t.status, t.user_id, t.project_id, t.unique_key, t.created_at, null, t.error
                ) as fits
            from pgqueue.tasks t
            where p_kind = 'cancel' and t.id > p_after_id and t.id <= p_last_id
            order by t.id
            limit p_look
        ) l
    ),
    found as (
        select l.id from looked l where l.fits order by l.id limit p_limit
    )
    select
        coalesce((select array_agg(f.id order by f.id) from found f), '{}'),
        case
            when (select count(*) from found) = p_limit then (select max(f.id) from found f)
            when (select count(*) from looked) = p_look then (select max(l.id) from looked l)
        end;
end $$;

comment on function pgqueue._find_for_operation(text, jsonb, bigint, bigint, int, int) is
'The next tasks that an operation changes, and how far it then is.';

create or replace function pgqueue.preview_operation(p_kind text, p_filter jsonb)
returns table (matched bigint, is_capped boolean, sample_ids bigint[])
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_filter jsonb := pgqueue._check_operation(p_kind, p_filter);
begin
    return query
    with found as (
        (
            select f.id
            from pgqueue.finished_tasks f
            where p_kind <> 'cancel'
            and pgqueue._matches(
                v_filter, f.queue_name, f.task_type, f.status, f.user_id, f.project_id, f.unique_key, f.created_at, f.finished_at, f.error
            )
            order by f.id desc
            limit 10001
        )
        union all
        (
            select t.id
            from pgqueue.tasks t
            where p_kind = 'cancel'
            and pgqueue._matches(
                v_filter, t.queue_name, t.task_type, t.status, t.user_id, t.project_id, t.unique_key, t.created_at, null, t.error
            )
            order by t.id desc
            limit 10001
        )
    )
    select
        least(count(*), 10000), count(*) > 10000,
        coalesce((select array_agg(s.id order by s.id desc) from (select f.id from found f order by f.id desc limit 20) s), '{}')
    from found;
end $$;

comment on function pgqueue.preview_operation(text, jsonb) is
'What an operation would change: how many tasks, counted up to 10,000, and the newest 20 of them.';

create or replace function pgqueue.start_operation(
    p_kind text, p_filter jsonb, p_reason text default null, p_requested_by text default null
) returns bigint
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_filter jsonb := pgqueue._check_operation(p_kind, p_filter);
    v_first bigint;
    v_last bigint;
    v_id bigint;
begin
    if p_kind = 'cancel' then
        select min(t.id), max(t.id) into v_first, v_last from pgqueue.tasks t;
    else
        select min(f.id), max(f.id) into v_first, v_last from pgqueue.finished_tasks f;
    end if;
    insert into pgqueue.operations (kind, filter, reason, first_id, last_id, after_id, requested_by, created_at)
    values (
        p_kind, v_filter, left(p_reason, 65536), coalesce(v_first, 1), coalesce(v_last, 0), coalesce(v_first, 1) - 1,
        left(coalesce(p_requested_by, session_user), 200), pgqueue._now()
    )
    returning id into v_id;
    return v_id;
end $$;

comment on function pgqueue.start_operation(text, jsonb, text, text) is
'Notes that the tasks of a filter shall be retried, cancelled or deleted, and returns the operation''s id: step_operation does it, or the workers after 30 seconds.';

create or replace function pgqueue._operation_not_found(p_id bigint) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU001',
        message = format('there is no operation %s', p_id),
        detail = jsonb_build_object('operation_id', p_id),
        hint = 'select * from pgqueue.operations shows those there are; they are kept for 30 days.';
end $$;

comment on function pgqueue._operation_not_found(bigint) is 'Raises QU001.';

-- One step. Whoever finds another at it changes nothing and gets the row as it is.
-- Lock order: the operation, then tasks by id, passing over what others hold.
create or replace function pgqueue.step_operation(p_id bigint, p_limit int default 500) returns pgqueue.operations
language plpgsql volatile security definer set search_path = '' set jit = off
as $$
declare
    v_limit int := least(greatest(coalesce(p_limit, 500), 1), 10000);
    v_op pgqueue.operations;
    v_ids bigint[];
    v_until bigint;
    v_done int;
    v_details jsonb;
    v_busy bigint[];
begin
    select o.* into v_op from pgqueue.operations o where o.id = p_id for no key update skip locked;
    if not found or v_op.state <> 'running' then
        return pgqueue._operation(p_id);
    end if;
    if v_op.after_id < v_op.last_id then
        select f.ids, coalesce(f.until_id, v_op.last_id) into v_ids, v_until
        from pgqueue._find_for_operation(v_op.kind, v_op.filter, v_op.after_id, v_op.last_id, v_limit, 10 * v_limit) f;
        v_op.matched := v_op.matched + cardinality(v_ids);
    else
        v_ids := v_op.busy_ids[:v_limit];
        v_until := v_op.after_id;
        v_op.busy_ids := v_op.busy_ids[v_limit + 1:];
    end if;
    select c.done, c.details, c.busy into v_done, v_details, v_busy from pgqueue._change_many(v_op.kind, v_ids, v_op.reason) c;
    if v_op.after_id < v_op.last_id or cardinality(v_busy) < cardinality(v_ids) then
        v_op.busy_rounds := 0;
    elsif v_op.busy_rounds >= 100 then
        v_details := v_details || jsonb_build_object('busy', to_jsonb(v_busy));
        v_busy := '{}';
    end if;
    update pgqueue.operations o
    set after_id = v_until,
        matched = v_op.matched,
        done = o.done + v_done,
        skipped = v_op.matched - o.done - v_done - cardinality(v_op.busy_ids || v_busy),
        details = pgqueue._add_details(o.details, v_details),
        busy_ids = v_op.busy_ids || v_busy,
        busy_rounds = v_op.busy_rounds + 1,
        stepped_at = pgqueue._now(),
        state = case when v_until >= o.last_id and v_op.busy_ids || v_busy = '{}' then 'completed' else o.state end,
        finished_at = case when v_until >= o.last_id and v_op.busy_ids || v_busy = '{}' then pgqueue._now() end
    where o.id = p_id
    returning o.* into v_op;
    return v_op;
end $$;

comment on function pgqueue.step_operation(bigint, int) is 'Changes the next p_limit tasks of an operation, and returns how far it is.';

create or replace function pgqueue._operation(p_id bigint) returns pgqueue.operations
language plpgsql stable
as $$
declare
    v_op pgqueue.operations;
begin
    select o.* into v_op from pgqueue.operations o where o.id = p_id;
    if not found then
        perform pgqueue._operation_not_found(p_id);
    end if;
    return v_op;
end $$;

comment on function pgqueue._operation(bigint) is 'An operation; QU001 if there is none.';

-- What is added are arrays of ids by reason; what is kept are a count and the first ids.
create or replace function pgqueue._add_details(p_details jsonb, p_added jsonb) returns jsonb
language sql immutable
as $$
    select p_details || coalesce(
        jsonb_object_agg(
            a.key,
            jsonb_build_object(
                'count', coalesce((p_details #>> array[a.key, 'count'])::bigint, 0) + jsonb_array_length(a.value),
                'ids', jsonb_path_query_array(coalesce(p_details #> array[a.key, 'ids'], '[]') || a.value, '$[0 to 19]')
            )
        ),
        '{}'
    )
    from jsonb_each(p_added) a
    where jsonb_array_length(a.value) > 0
$$;

comment on function pgqueue._add_details(jsonb, jsonb) is 'Adds ids by reason to the details of an operation.';

create or replace function pgqueue._change_many(p_kind text, p_ids bigint[], p_reason text)
returns table (done int, details jsonb, busy bigint[])
language plpgsql volatile
as $$
begin
    if p_kind = 'retry' then
        return query select * from pgqueue._retry_many(p_ids);
    elsif p_kind = 'cancel' then
        return query select * from pgqueue._cancel_many(p_ids, p_reason);
    else
        return query select * from pgqueue._delete_many(p_ids);
    end if;
end $$;

comment on function pgqueue._change_many(text, bigint[], text) is
'Retries, cancels or deletes tasks; returns how many, the ids that could not be by reason, and those that somebody else holds.';

-- A task whose key a live one has, and one that its queue has no room for, stay as they are.
-- Lock order: finished tasks by id, then new rows by their keys in the order of submit_many.
create or replace function pgqueue._retry_many(p_ids bigint[]) returns table (done int, details jsonb, busy bigint[])
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_locked bigint[];
    v_from timestamptz;
    v_to timestamptz;
    v_missing bigint[];
    v_fitting bigint[];
    v_added bigint[];
    v_queues text[];
begin
    select coalesce(array_agg(l.id), '{}'), min(l.finished_at), max(l.finished_at) into v_locked, v_from, v_to
    from (
        select f.id, f.finished_at
        from pgqueue.finished_tasks f
        where f.id = any(p_ids) and f.status in ('failed', 'cancelled')
        order by f.id
        for update skip locked
    ) l;
    busy := array(
        select f.id
        from pgqueue.finished_tasks f
        where f.id = any(p_ids) and f.status in ('failed', 'cancelled') and not f.id = any(v_locked)
        order by f.id
    );
    select
        coalesce(array_agg(g.id) filter (where g.is_missing), '{}'),
        coalesce(array_agg(g.id) filter (where not g.is_missing and (g.room is null or g.nr <= g.room)), '{}')
    into v_missing, v_fitting
    from (
        select
            f.id, q.name is null as is_missing, q.room, row_number() over (partition by f.queue_name order by f.id) as nr
        from pgqueue.finished_tasks f
        left join (
            select n.name, n.capacity - pgqueue._count_waiting(n.name, least(n.capacity, 9999) + 1) as room
            from pgqueue.queues n
        ) q on q.name = f.queue_name
        where f.id = any(v_locked) and f.finished_at between v_from and v_to
    ) g;
    perform set_config('pgqueue.in_bulk', 'on', true);
    with added as (
        insert into pgqueue.tasks as t (
            id, task_type, queue_name, priority, payload, max_retries, timeout, unique_key, user_id, project_id, metadata,
            attempt, created_at, run_at
        )
        overriding system value
        select
            f.id, f.task_type, f.queue_name, f.priority, f.payload, f.max_retries, f.timeout, f.unique_key, f.user_id, f.project_id, f.metadata,
            f.attempt, f.created_at, v_now
        from pgqueue.finished_tasks f
        where f.id = any(v_fitting) and f.finished_at between v_from and v_to
        order by f.unique_key collate "C" nulls first, f.task_type collate "C", f.id
        on conflict (task_type, unique_key) where unique_key is not null do nothing
        returning t.id, t.queue_name, t.rank
    ),
    noted as (
        insert into pgqueue.lanes (queue_name, rank)
        select distinct a.queue_name, a.rank
        from added a
        where not exists (select from pgqueue.lanes l where l.queue_name = a.queue_name and l.rank = a.rank)
    )
    select coalesce(array_agg(a.id), '{}'), array_agg(distinct a.queue_name) into v_added, v_queues from added a;
    perform set_config('pgqueue.in_bulk', 'off', true);
    perform pgqueue._remove_finished(v_added, v_from, v_to, false);
    perform pgqueue._wake(q.queue_name) from unnest(v_queues) as q (queue_name);
    if exists (select from pgqueue.listeners) then
        perform pgqueue._publish_status(v_added);
    end if;
    done := cardinality(v_added);
    details := jsonb_build_object(
        'queue_missing', to_jsonb(v_missing),
        'queue_full', to_jsonb(array(select l.id from unnest(v_locked) as l (id) where not l.id = any(v_missing || v_fitting))),
        'duplicate', to_jsonb(array(select f.id from unnest(v_fitting) as f (id) where not f.id = any(v_added)))
    );
    return next;
end $$;

comment on function pgqueue._retry_many(bigint[]) is 'Starts failed and cancelled tasks again, as retry_task does.';

-- Lock order: tasks by id, then their progress.
create or replace function pgqueue._cancel_many(p_ids bigint[], p_reason text) returns table (done int, details jsonb, busy bigint[])
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_locked bigint[];
    v_running bigint[];
begin
    select coalesce(array_agg(l.id), '{}'), coalesce(array_agg(l.id) filter (where l.status = 'running'), '{}') into v_locked, v_running
    from (
        select t.id, t.status
        from pgqueue.tasks t
        where t.id = any(p_ids)
        order by t.id
        for no key update skip locked
    ) l;
    busy := array(select t.id from pgqueue.tasks t where t.id = any(p_ids) and not t.id = any(v_locked) order by t.id);
    update pgqueue.tasks t
    set cancel_requested_at = coalesce(t.cancel_requested_at, pgqueue._now()), cancel_reason = coalesce(t.cancel_reason, p_reason)
    where t.id = any(v_running);
    perform pgqueue._notify('pgqueue_control', jsonb_build_object('kind', 'cancel', 'worker_id', w.worker_id)::text)
    from (select distinct t.worker_id from pgqueue.tasks t where t.id = any(v_running)) w;
    perform pgqueue._cancel_waiting(array(select l.id from unnest(v_locked) as l (id) where not l.id = any(v_running)), p_reason);
    done := cardinality(v_locked);
    details := jsonb_build_object('asked_to_stop', to_jsonb(v_running));
    return next;
end $$;

comment on function pgqueue._cancel_many(bigint[], text) is 'Cancels waiting tasks at once and asks running ones to stop.';

-- Lock order: finished tasks by id.
create or replace function pgqueue._delete_many(p_ids bigint[]) returns table (done int, details jsonb, busy bigint[])
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_locked bigint[];
    v_from timestamptz;
    v_to timestamptz;
begin
    select coalesce(array_agg(l.id), '{}'), min(l.finished_at), max(l.finished_at) into v_locked, v_from, v_to
    from (select f.id, f.finished_at from pgqueue.finished_tasks f where f.id = any(p_ids) order by f.id for update skip locked) l;
    busy := array(select f.id from pgqueue.finished_tasks f where f.id = any(p_ids) and not f.id = any(v_locked) order by f.id);
    done := pgqueue._remove_finished(v_locked, v_from, v_to, true);
    details := '{}';
    return next;
end $$;

comment on function pgqueue._delete_many(bigint[]) is 'Deletes finished tasks with their executions and logs.';

create or replace function pgqueue.cancel_operation(p_id bigint) returns text
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.operations o set state = 'cancelled', finished_at = pgqueue._now() where o.id = p_id and o.state = 'running';
    return (pgqueue._operation(p_id)).state;
end $$;

comment on function pgqueue.cancel_operation(bigint) is 'Ends an operation where it is; what it did stays. Returns its state then.';

create or replace function pgqueue.fail_operation(p_id bigint, p_error text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.operations o
    set state = 'failed', finished_at = pgqueue._now(), error = left(coalesce(p_error, 'unknown'), 65536)
    where o.id = p_id and o.state = 'running';
end $$;

comment on function pgqueue.fail_operation(bigint, text) is 'Ends an operation of which a step cannot be done.';

create or replace function pgqueue.next_operation(p_idle interval default interval '30 seconds') returns bigint
language plpgsql stable security definer set search_path = ''
as $$
begin
    return (
        select min(o.id) from pgqueue.operations o where o.state = 'running' and coalesce(o.stepped_at, o.created_at) < pgqueue._now() - p_idle
    );
end $$;

comment on function pgqueue.next_operation(interval) is 'An operation that nobody has gone on with for so long.';
