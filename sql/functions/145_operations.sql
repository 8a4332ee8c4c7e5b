-- Retry, cancel and delete by a filter, in steps that hold a few rows for a few milliseconds. Whoever asked
-- drives the steps; when its driver dies, maintenance goes on with it.

-- The fields of a filter. Without any, all must be said: {"all": true}.
create or replace function pgqueue._check_operation(p_kind text, p_filter jsonb) returns void
language plpgsql stable
as $$
declare
    v_known text[] := array[
        'all', 'queue_name', 'task_type', 'status', 'user_id', 'project_id', 'parent_id', 'created_from', 'created_to', 'finished_from',
        'finished_to', 'error_contains', 'payload_path', 'payload_value'
    ];
    v_statuses text[] := case p_kind
        when 'retry' then array['failed', 'cancelled']
        when 'cancel' then array['blocked', 'pending', 'running']
        when 'delete' then array['completed', 'failed', 'cancelled']
    end;
    v_unknown text;
begin
    if v_statuses is null then
        raise exception using errcode = 'QU001',
            message = format('there is no bulk operation %L', p_kind),
            detail = jsonb_build_object('kind', p_kind),
            hint = 'The operations are retry, cancel and delete.';
    elsif jsonb_typeof(p_filter) is distinct from 'object' or p_filter = '{}' then
        raise exception using errcode = 'QU001',
            message = format('nothing says which tasks to %s', p_kind),
            detail = jsonb_build_object('filter', p_filter),
            hint = 'Give a filter such as {"queue_name": "reports"}, or {"all": true}.';
    end if;
    select k into v_unknown from jsonb_object_keys(p_filter) k where not k = any(v_known) limit 1;
    if v_unknown is not null then
        raise exception using errcode = 'QU001',
            message = format('tasks cannot be filtered by %L', v_unknown),
            detail = jsonb_build_object('field', v_unknown),
            hint = 'A filter may have ' || array_to_string(v_known, ', ') || '.';
    elsif p_filter ->> 'status' <> all(v_statuses) then
        raise exception using errcode = 'QU001',
            message = format('tasks that are %s cannot be dealt with by %s', p_filter ->> 'status', p_kind),
            detail = jsonb_build_object('kind', p_kind, 'status', p_filter ->> 'status'),
            hint = format('%s is for tasks that are %s.', p_kind, array_to_string(v_statuses, ' or '));
    elsif (p_filter ? 'payload_path' or p_filter ? 'payload_value')
    and not coalesce(jsonb_typeof(p_filter -> 'payload_path') = 'array' and jsonb_typeof(p_filter -> 'payload_value') = 'string', false) then
        raise exception using errcode = 'QU001',
            message = 'a search in payloads has a payload_path and a payload_value',
            detail = jsonb_build_object('payload_path', p_filter -> 'payload_path', 'payload_value', p_filter -> 'payload_value'),
            hint = 'For instance {"payload_path": ["customer", "id"], "payload_value": "42"}; the value is compared as text.';
    end if;
    perform (p_filter ->> 'parent_id')::bigint;
    perform (p_filter ->> m)::timestamptz from unnest(array['created_from', 'created_to', 'finished_from', 'finished_to']) m;
end $$;

comment on function pgqueue._check_operation(text, jsonb) is 'Raises QU001 for an operation or a filter that makes no sense.';

-- Up to p_examine tasks above an id, in the order of their ids, and whether each matches. Retry alone takes
-- failed tasks only, unless the filter says otherwise. A window of creation is walked from where its ids begin.
create or replace function pgqueue._candidates(p_kind text, p_filter jsonb, p_after bigint, p_until bigint, p_examine int)
returns table (id bigint, finished_at timestamptz, matches boolean)
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
declare
    v_from timestamptz := (p_filter ->> 'created_from')::timestamptz - interval '1 minute';
    v_to timestamptz := (p_filter ->> 'created_to')::timestamptz + interval '1 minute';
    v_after bigint := p_after;
    v_until bigint := p_until;
    v_path text[] := case when p_filter ? 'payload_path' then array(select jsonb_array_elements_text(p_filter -> 'payload_path')) end;
    v_value text := p_filter ->> 'payload_value';
begin
    if v_from is not null then
        v_after := greatest(v_after, (select i.after_id from pgqueue._ids_around(v_from) i));
    end if;
    if v_to is not null then
        v_until := least(v_until, (select i.before_id from pgqueue._ids_around(v_to) i));
    end if;
    if p_kind = 'cancel' then
        return query
        select
            t.id, null::timestamptz,
            pgqueue._is_chosen(p_filter, t.status, t.queue_name, t.task_type, t.user_id, t.project_id, t.parent_id, t.created_at, null, t.error)
            and (v_path is null or coalesce(t.payload #>> v_path = v_value, false))
        from pgqueue.tasks t
        where t.id > v_after and t.id <= v_until
        order by t.id
        limit p_examine;
    else
        return query
        select
            f.id, f.finished_at,
            (p_kind = 'delete' or f.status = coalesce(p_filter ->> 'status', 'failed'))
            and pgqueue._is_chosen(
                p_filter, f.status, f.queue_name, f.task_type, f.user_id, f.project_id, f.parent_id, f.created_at, f.finished_at, f.error
            )
            and (v_path is null or coalesce(f.payload #>> v_path = v_value, false))
        from pgqueue.finished_tasks f
        where f.id > v_after and f.id <= v_until
        and (p_kind = 'delete' or f.status <> 'completed')
        and f.finished_at >= coalesce((p_filter ->> 'finished_from')::timestamptz, '-infinity')
        and f.finished_at < coalesce((p_filter ->> 'finished_to')::timestamptz, 'infinity')
        order by f.id
        limit p_examine;
    end if;
end $$;

comment on function pgqueue._candidates(text, jsonb, bigint, bigint, int) is 'The next tasks that an operation looks at.';

create or replace function pgqueue._is_chosen(
    p_filter jsonb, p_status text, p_queue_name text, p_task_type text, p_user_id text, p_project_id text,
    p_parent_id bigint, p_created_at timestamptz, p_finished_at timestamptz, p_error text
) returns boolean
language sql stable
as $$
    select p_status = coalesce(p_filter ->> 'status', p_status)
    and p_queue_name = coalesce(p_filter ->> 'queue_name', p_queue_name)
    and p_task_type = coalesce(p_filter ->> 'task_type', p_task_type)
    and (p_filter ->> 'user_id' is null or p_user_id is not distinct from p_filter ->> 'user_id')
    and (p_filter ->> 'project_id' is null or p_project_id is not distinct from p_filter ->> 'project_id')
    and (p_filter ->> 'parent_id' is null or p_parent_id is not distinct from (p_filter ->> 'parent_id')::bigint)
    and p_created_at >= coalesce((p_filter ->> 'created_from')::timestamptz, '-infinity')
    and p_created_at < coalesce((p_filter ->> 'created_to')::timestamptz, 'infinity')
    and (p_filter ->> 'error_contains' is null or strpos(lower(coalesce(p_error, '')), lower(p_filter ->> 'error_contains')) > 0)
$$;

comment on function pgqueue._is_chosen(jsonb, text, text, text, text, text, bigint, timestamptz, timestamptz, text) is
'Whether a filter lets a task through.';

drop function if exists pgqueue._is_chosen(jsonb, text, text, text, text, text, timestamptz, timestamptz, text);

-- What an operation would do: how many tasks match among the first p_most that it would look at, and some of them.
-- Of payloads fewer are read: each may have to be fetched from elsewhere, and unpacked.
create or replace function pgqueue.preview_operation(p_kind text, p_filter jsonb, p_most int default 100000)
returns table (matched bigint, is_capped boolean, sample bigint[])
language plpgsql stable security definer set search_path = '' set jit = off
as $$
declare
    v_most int := case when p_filter ? 'payload_path' then least(p_most, 20000) else p_most end;
begin
    perform pgqueue._check_operation(p_kind, p_filter);
    return query
    select
        count(*) filter (where c.matches), count(*) >= v_most,
        coalesce((array_agg(c.id order by c.id) filter (where c.matches))[1:20], '{}')
    from pgqueue._candidates(p_kind, p_filter, 0, 9223372036854775807, v_most) c;
end $$;

comment on function pgqueue.preview_operation(text, jsonb, int) is 'Counts, without changing anything, what an operation would deal with.';

create or replace function pgqueue.start_operation(p_kind text, p_filter jsonb, p_reason text default null, p_requested_by text default null) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_id bigint;
begin
    perform pgqueue._check_operation(p_kind, p_filter);
    insert into pgqueue.operations (kind, filter, reason, until_id, requested_by, created_at, updated_at)
    select p_kind, p_filter, p_reason, q.last_value, coalesce(p_requested_by, session_user), v_now, v_now
    from pgqueue.tasks_id_seq q
    returning id into v_id;
    return v_id;
end $$;

comment on function pgqueue.start_operation(text, jsonb, text, text) is
'Notes a bulk retry, cancel or delete and returns its id; step_operation, or any worker''s maintenance, carries it out.';

-- One step, in the caller's transaction: looks at up to ten times p_limit tasks, deals with up to p_limit.
-- Returns the operation; nothing where another session is at it. Rows that somebody holds are skipped, so
-- that no worker waits and no deadlock arises.
-- Lock order: the operation, then tasks by id, by SKIP LOCKED.
create or replace function pgqueue.step_operation(p_id bigint, p_limit int default 200) returns setof pgqueue.operations
language plpgsql volatile security definer set search_path = '' set jit = off
as $$
declare
    v pgqueue.operations;
    v_last bigint;
    v_examined bigint;
    v_ids bigint[];
    v_done bigint[];
begin
    select o.* into v from pgqueue.operations o where o.id = p_id for update skip locked;
    if not found then
        if not exists (select from pgqueue.operations o where o.id = p_id) then
            perform pgqueue._operation_not_found(p_id);
        end if;
        return;
    elsif v.state <> 'running' then
        return next v;
        return;
    end if;
    with looked as (
        select c.id, c.matches, count(*) filter (where c.matches) over (order by c.id) as nr
        from pgqueue._candidates(v.kind, v.filter, v.last_id, v.until_id, 10 * p_limit) c
    ),
    taken as (
        select l.id, l.matches from looked l where l.nr <= p_limit
    )
    select max(t.id), count(*), coalesce(array_agg(t.id order by t.id) filter (where t.matches), '{}') into v_last, v_examined, v_ids from taken t;
    v_done := case v.kind
        when 'retry' then pgqueue._retry_some(v_ids)
        when 'cancel' then pgqueue._cancel_some(v_ids, v.reason)
        else pgqueue._delete_some(v_ids)
    end;
    return query
    update pgqueue.operations o
    set last_id = coalesce(v_last, o.until_id),
        examined = o.examined + v_examined,
        done = o.done + cardinality(v_done),
        skipped = o.skipped + cardinality(v_ids) - cardinality(v_done),
        skipped_ids = (o.skipped_ids || array(select i.id from unnest(v_ids) as i (id) where not i.id = any(v_done)))[1:20],
        state = case when v_last is null then 'completed' else 'running' end,
        finished_at = case when v_last is null then pgqueue._now() end,
        updated_at = pgqueue._now()
    where o.id = p_id
    returning o.*;
end $$;

comment on function pgqueue.step_operation(bigint, int) is
'Carries an operation on by some tasks and returns how far it is; nothing where another session does so.';

create or replace function pgqueue._operation_not_found(p_id bigint) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU105',
        message = format('there is no bulk operation %s', p_id),
        detail = jsonb_build_object('operation_id', p_id),
        hint = 'pgqueue operation list shows those that there are.';
end $$;

comment on function pgqueue._operation_not_found(bigint) is 'Raises QU105.';

-- Those whose unique key a live task has are left alone; of two with the same key the first is taken.
create or replace function pgqueue._retry_some(p_ids bigint[]) returns bigint[]
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_ids bigint[];
    v_id bigint;
begin
    select coalesce(array_agg(k.id order by k.id), '{}') into v_ids
    from (
        select f.id, f.unique_key, row_number() over (partition by f.task_type, f.unique_key order by f.id) as nr, f.task_type
        from (
            select f.id, f.task_type, f.unique_key
            from pgqueue.finished_tasks f
            where f.id = any(p_ids) and f.status <> 'completed'
            order by f.id
            for update skip locked
        ) f
    ) k
    where k.unique_key is null
    or (k.nr = 1 and not exists (select from pgqueue.tasks t where t.task_type = k.task_type and t.unique_key = k.unique_key));
    foreach v_id in array v_ids loop
        perform pgqueue.retry_task(v_id);
    end loop;
    return v_ids;
end $$;

comment on function pgqueue._retry_some(bigint[]) is 'Retries those of some finished tasks that can be; returns them.';

create or replace function pgqueue._cancel_some(p_ids bigint[], p_reason text) returns bigint[]
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_ids bigint[];
    v_id bigint;
begin
    select coalesce(array_agg(h.id), '{}') into v_ids
    from (
        select t.id from pgqueue.tasks t where t.id = any(p_ids) order by t.id for no key update skip locked
    ) h;
    foreach v_id in array v_ids loop
        perform pgqueue.cancel_task(v_id, p_reason);
    end loop;
    return v_ids;
end $$;

comment on function pgqueue._cancel_some(bigint[], text) is 'Cancels those of some live tasks that nobody holds; returns them.';

create or replace function pgqueue._delete_some(p_ids bigint[]) returns bigint[]
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_ids bigint[];
    v_from timestamptz;
    v_to timestamptz;
begin
    select coalesce(array_agg(h.id), '{}'), min(h.finished_at), max(h.finished_at) into v_ids, v_from, v_to
    from (
        select f.id, f.finished_at from pgqueue.finished_tasks f where f.id = any(p_ids) order by f.id for update skip locked
    ) h;
    perform pgqueue._delete_finished(v_ids, v_from, v_to);
    return v_ids;
end $$;

comment on function pgqueue._delete_some(bigint[]) is 'Deletes those of some finished tasks that nobody holds, with their executions and logs; returns them.';

create or replace function pgqueue.cancel_operation(p_id bigint) returns text
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_state text;
begin
    update pgqueue.operations o set state = 'cancelled', finished_at = pgqueue._now(), updated_at = pgqueue._now()
    where o.id = p_id and o.state = 'running';
    select o.state into v_state from pgqueue.operations o where o.id = p_id;
    if not found then
        perform pgqueue._operation_not_found(p_id);
    end if;
    return v_state;
end $$;

comment on function pgqueue.cancel_operation(bigint) is 'Stops an operation after the step that runs; what it did stays done. Returns its state.';

create or replace function pgqueue.list_operations(p_limit int default 100, p_id bigint default null) returns setof pgqueue.operations
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform pgqueue._check_filter(null, coalesce(p_limit, 0), 0);
    return query select o.* from pgqueue.operations o where p_id is null or o.id = p_id order by o.id desc limit p_limit;
    if p_id is not null and not found then
        perform pgqueue._operation_not_found(p_id);
    end if;
end $$;

comment on function pgqueue.list_operations(int, bigint) is 'Bulk operations, newest first, or one of them.';

-- For maintenance: the operation that nobody has carried on for some seconds.
create or replace function pgqueue.step_abandoned(p_limit int default 200) returns setof pgqueue.operations
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_id bigint;
begin
    select o.id into v_id
    from pgqueue.operations o
    where o.state = 'running' and o.updated_at < pgqueue._now() - interval '5 seconds'
    order by o.id
    limit 1
    for update skip locked;
    if found then
        return query select * from pgqueue.step_operation(v_id, p_limit);
    end if;
end $$;

comment on function pgqueue.step_abandoned(int) is 'Carries on an operation whose driver has gone; nothing where there is none.';

create or replace function pgqueue._forget_operations() returns void
language sql volatile
as $$
    delete from pgqueue.operations o where o.finished_at < pgqueue._now() - interval '30 days'
$$;

comment on function pgqueue._forget_operations() is 'Removes operations that ended over 30 days ago.';
