-- A task comes in. A plain insert, submit() and submit_many() end in the same place: the row, its lane,
-- and a word to whoever sleeps.

-- Looks once and does nothing in the common case: the queue and the lane are there, and nobody sleeps.
create or replace function pgqueue._task_inserted() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_capacity int;
    v_has_lane boolean;
    v_all_sleep boolean;
begin
    if new.parent_id <= 0 then
        perform pgqueue._refuse_parent(new.parent_id);
    end if;
    select
        q.capacity,
        exists (select from pgqueue.lanes l where l.queue_name = new.queue_name and l.rank = new.rank),
        (select bool_and(not w.attending) from pgqueue.waits w where w.queue_name = new.queue_name and w.fresh_until > pgqueue._now())
    into v_capacity, v_has_lane, v_all_sleep
    from pgqueue.queues q
    where q.name = new.queue_name;
    if not found then
        perform pgqueue._queue_not_found(new.queue_name);
    end if;
    if not v_has_lane then
        insert into pgqueue.lanes (queue_name, rank) values (new.queue_name, new.rank);
    end if;
    if v_capacity is not null then
        perform pgqueue._check_capacity(new.queue_name, v_capacity);
    end if;
    -- This is what _wake does, which would look once more.
    if v_all_sleep or current_setting('transaction_isolation') <> 'read committed' then
        perform pgqueue._notify('pgqueue_wake', new.queue_name);
    end if;
    return null;
end $$;

comment on function pgqueue._task_inserted() is 'Checks parent and queue, notes the lane, checks the capacity, wakes.';

-- submit_many does all this once for its rows and says so. Only the owner's word counts: the roles may
-- insert but not update, so none of them can switch the checks off.
create or replace trigger tasks_inserted after insert on pgqueue.tasks
for each row when (
    current_setting('pgqueue.in_bulk', true) is distinct from 'on' or not has_table_privilege('pgqueue.tasks'::regclass, 'update')
)
execute function pgqueue._task_inserted();

-- Before the row's own CHECK, which would only say that it is violated. The condition spares an ordinary
-- insert the call: it costs nothing that can be measured.
create or replace function pgqueue._refuse_status() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    raise exception using errcode = 'QU001',
        message = format('a task cannot be inserted with status %L: it starts as pending', new.status),
        detail = jsonb_build_object('status', new.status),
        hint = 'Leave status out; use run_at to start it later.';
end $$;

comment on function pgqueue._refuse_status() is 'Raises QU001: an insert cannot set a status.';

create or replace trigger tasks_status_given before insert on pgqueue.tasks
for each row when (new.status <> 'pending')
execute function pgqueue._refuse_status();

drop function if exists pgqueue._refuse_status(text);

-- Asked for here, where a CHECK, or a condition of a trigger, would cost every insert a hundredth.
create or replace function pgqueue._refuse_parent(p_parent_id bigint) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU001',
        message = format('parent_id must be the id of a task, not %s', p_parent_id),
        detail = jsonb_build_object('parent_id', p_parent_id),
        hint = 'Ids are whole numbers from 1 on. Leave parent_id out where no task submits it.';
end $$;

comment on function pgqueue._refuse_parent(bigint) is 'Raises QU001 for a parent that no task can be.';

create or replace function pgqueue._queue_not_found(p_queue_name text) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU101',
        message = format('there is no queue %L', p_queue_name),
        detail = jsonb_build_object('queue_name', p_queue_name),
        hint = format('Create it: select pgqueue.create_queue(%L), or pgqueue queue create.', p_queue_name);
end $$;

comment on function pgqueue._queue_not_found(text) is 'Raises QU101.';

-- Waiting tasks of a queue, counted lane by lane (and those that are blocked) up to p_most; a longer
-- queue has the figure that maintenance counted last.
create or replace function pgqueue._count_waiting(p_queue_name text, p_most int default 10000) returns bigint
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    v_count bigint;
begin
    select count(*) into v_count
    from (
        (
            select
            from pgqueue._lanes(p_queue_name) l
            cross join lateral (
                select
                from pgqueue.tasks t
                where t.queue_name = p_queue_name and t.rank = l.rank and t.waits_for = 0 and t.run_at >= l.due_from and t.status <> 'running'
                limit p_most
            ) here
            limit p_most
        )
        union all
        (select from pgqueue.tasks t where t.queue_name = p_queue_name and t.waits_for > 0 limit p_most)
        limit p_most
    ) waiting;
    if v_count < p_most then
        return v_count;
    end if;
    return greatest(v_count, (select c.waiting from pgqueue.queue_counts c where c.queue_name = p_queue_name));
end $$;

comment on function pgqueue._count_waiting(text, int) is 'How many tasks wait in a queue: exact up to p_most, then as maintenance counted last.';

create or replace function pgqueue._check_capacity(p_queue_name text, p_capacity int) returns void
language plpgsql
as $$
begin
    if pgqueue._count_waiting(p_queue_name, least(p_capacity, 9999) + 1) > p_capacity then
        raise exception using errcode = 'QU401',
            message = format('queue %L is full: it holds at most %s waiting tasks', p_queue_name, p_capacity),
            detail = jsonb_build_object('queue_name', p_queue_name, 'capacity', p_capacity),
            hint = 'Submit again later, add workers, or raise the capacity of the queue.';
    end if;
end $$;

comment on function pgqueue._check_capacity(text, int) is 'Raises QU401 where more tasks wait than the queue may hold. Soft: concurrent submits do not see each other.';

drop function if exists pgqueue.submit_task(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text);

-- A taken unique key returns the live task that has it. The loop ends: either the insert succeeds, or
-- the holder of the key is seen, or it has just ended and the key is free.
create or replace function pgqueue.submit_task(
    p_task_type text,
    p_payload jsonb default '{}',
    p_queue_name text default 'default',
    p_priority int default 5,
    p_max_retries int default 3,
    p_timeout int default null,
    p_run_at timestamptz default null,
    p_unique_key text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_metadata jsonb default null,
    p_on_conflict text default 'return',
    p_parent_id bigint default null
) returns table (task_id bigint, created boolean, status text, attempt int, run_at timestamptz, created_at timestamptz)
language plpgsql security definer set search_path = ''
as $$
#variable_conflict use_column
declare
    v_now timestamptz := pgqueue._now();
begin
    perform pgqueue._check_submit(p_priority, p_on_conflict);
    loop
        insert into pgqueue.tasks as t (
            task_type, payload, queue_name, priority, max_retries, timeout, run_at,
            unique_key, user_id, project_id, metadata, created_at, parent_id
        )
        values (
            p_task_type, coalesce(p_payload, '{}'), coalesce(p_queue_name, 'default'), coalesce(p_priority, 5)::smallint,
            coalesce(p_max_retries, 3), p_timeout, greatest(p_run_at, v_now),
            p_unique_key, p_user_id, p_project_id, p_metadata, v_now, p_parent_id
        )
        on conflict (task_type, unique_key) where unique_key is not null do nothing
        returning t.id, true, t.status, t.attempt, t.run_at, t.created_at
        into task_id, created, status, attempt, run_at, created_at;
        exit when found;
        select t.id, false, t.status, t.attempt, t.run_at, t.created_at
        into task_id, created, status, attempt, run_at, created_at
        from pgqueue._live_task(p_task_type, p_unique_key, p_payload, p_on_conflict) t;
        exit when task_id is not null;
    end loop;
    return next;
end $$;

comment on function pgqueue.submit_task(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text, bigint) is
'Submits a task; where its unique key is taken, p_on_conflict returns the live task, raises QU202, or replaces the payload of a waiting one. A run_at in the past means now.';

drop function if exists pgqueue.submit_or_get(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text);

create or replace function pgqueue.submit_or_get(
    p_task_type text,
    p_payload jsonb default '{}',
    p_queue_name text default 'default',
    p_priority int default 5,
    p_max_retries int default 3,
    p_timeout int default null,
    p_run_at timestamptz default null,
    p_unique_key text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_metadata jsonb default null,
    p_on_conflict text default 'return',
    p_parent_id bigint default null
) returns table (task_id bigint, created boolean)
language plpgsql security definer set search_path = ''
as $$
begin
    return query
    select s.task_id, s.created
    from pgqueue.submit_task(
        p_task_type, p_payload, p_queue_name, p_priority, p_max_retries, p_timeout, p_run_at,
        p_unique_key, p_user_id, p_project_id, p_metadata, p_on_conflict, p_parent_id
    ) s;
end $$;

comment on function pgqueue.submit_or_get(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text, bigint) is
'Submits a task; returns its id, or that of the live task with its unique key, and whether it is new.';

drop function if exists pgqueue.submit(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text);

create or replace function pgqueue.submit(
    p_task_type text,
    p_payload jsonb default '{}',
    p_queue_name text default 'default',
    p_priority int default 5,
    p_max_retries int default 3,
    p_timeout int default null,
    p_run_at timestamptz default null,
    p_unique_key text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_metadata jsonb default null,
    p_on_conflict text default 'return',
    p_parent_id bigint default null
) returns bigint
language plpgsql security definer set search_path = ''
as $$
begin
    return (
        select s.task_id
        from pgqueue.submit_task(
            p_task_type, p_payload, p_queue_name, p_priority, p_max_retries, p_timeout, p_run_at,
            p_unique_key, p_user_id, p_project_id, p_metadata, p_on_conflict, p_parent_id
        ) s
    );
end $$;

comment on function pgqueue.submit(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text, bigint) is
'Submits a task and returns its id, or the id of the live task that has its unique key.';

create or replace function pgqueue._check_submit(p_priority int, p_on_conflict text) returns void
language plpgsql immutable
as $$
begin
    if p_priority not between -32768 and 32767 then
        raise exception using errcode = 'QU001',
            message = format('priority must be between -32768 and 32767, not %s', p_priority),
            detail = jsonb_build_object('priority', p_priority),
            hint = 'Usual priorities are 1 (low), 5 (normal), 10 (high) and 20 (urgent).';
    end if;
    if p_on_conflict is null or p_on_conflict not in ('return', 'raise', 'replace') then
        raise exception using errcode = 'QU001',
            message = format('on_conflict must be return, raise or replace, not %L', p_on_conflict),
            detail = jsonb_build_object('on_conflict', p_on_conflict),
            hint = 'It says what becomes of a submit whose unique key is taken.';
    end if;
end $$;

comment on function pgqueue._check_submit(int, text) is 'Raises QU001 for a priority or conflict rule that does not exist.';

create or replace function pgqueue._live_task(p_task_type text, p_unique_key text, p_payload jsonb, p_on_conflict text)
returns setof pgqueue.tasks
language plpgsql
as $$
declare
    v_id bigint;
begin
    if p_on_conflict = 'replace' then
        return query
        update pgqueue.tasks t set payload = coalesce(p_payload, '{}')
        where t.task_type = p_task_type and t.unique_key = p_unique_key and t.status <> 'running'
        returning t.*;
        if found then
            return;
        end if;
    elsif p_on_conflict = 'raise' then
        select t.id into v_id from pgqueue.tasks t where t.task_type = p_task_type and t.unique_key = p_unique_key;
        if found then
            perform pgqueue._duplicate_task(v_id, p_task_type, p_unique_key);
        end if;
    end if;
    return query select t.* from pgqueue.tasks t where t.task_type = p_task_type and t.unique_key = p_unique_key;
end $$;

comment on function pgqueue._live_task(text, text, jsonb, text) is 'The live task with a unique key, dealt with as on_conflict says; none if it has just ended.';

create or replace function pgqueue._duplicate_task(p_id bigint, p_task_type text, p_unique_key text) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU202',
        message = format('task %s of type %L is live with the unique key %L', p_id, p_task_type, p_unique_key),
        detail = jsonb_build_object('task_id', p_id, 'task_type', p_task_type, 'unique_key', p_unique_key),
        hint = 'Wait until it ends, use another key, or submit with on_conflict => return or replace.';
end $$;

comment on function pgqueue._duplicate_task(bigint, text, text) is 'Raises QU202.';

-- One statement for all, and the array is taken apart once: the lanes, queues and sleepers are looked at once for
-- the call, not for each row. Where unique keys repeat, the first of the call wins and the others return it.
create or replace function pgqueue.submit_many(p_tasks jsonb)
returns table (position_no bigint, task_id bigint, created boolean)
language plpgsql security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_ids bigint[];
    v_has_keys boolean;
    v_queues text[];
    v_priorities int[];
    v_rules text[];
    v_least_parent bigint;
begin
    if jsonb_typeof(p_tasks) is distinct from 'array' then
        raise exception using errcode = 'QU001',
            message = 'submit_many takes a JSON array of tasks',
            detail = jsonb_build_object('type', jsonb_typeof(p_tasks)),
            hint = 'For instance select * from pgqueue.submit_many(''[{"task_type": "report"}]'').';
    elsif jsonb_path_exists(p_tasks, 'strict $[*] ? (@.type() != "object")') then
        raise exception using errcode = 'QU001',
            message = 'each task of submit_many is a JSON object',
            detail = jsonb_build_object('found', left(jsonb_path_query_first(p_tasks, 'strict $[*] ? (@.type() != "object")')::text, 200)),
            hint = 'For instance select * from pgqueue.submit_many(''[{"task_type": "report"}]'').';
    end if;
    perform set_config('pgqueue.in_bulk', 'on', true);
    with given as materialized (
        select g.* from pgqueue._given_tasks(p_tasks) g
    ),
    kinds as (
        select g.queue_name, g.priority, bool_or(g.unique_key is not null) as has_keys,
            min(g.on_conflict) filter (where g.on_conflict not in ('return', 'raise', 'replace')) as unknown_rule,
            min(g.parent_id) as least_parent
        from given g
        group by g.queue_name, g.priority
    ),
    added as (
        insert into pgqueue.tasks (
            task_type, payload, queue_name, priority, max_retries, timeout, run_at, user_id, project_id, metadata, created_at,
            parent_id
        )
        select
            g.task_type, g.payload, g.queue_name, least(greatest(g.priority, -32768), 32767)::smallint, g.max_retries, g.timeout,
            greatest(g.run_at, v_now), g.user_id, g.project_id, g.metadata, v_now, g.parent_id
        from given g
        where not exists (select from given k where k.unique_key is not null)
        order by g.position_no
        returning id
    )
    select
        (select array_agg(a.id order by a.id) from added a), bool_or(k.has_keys), array_agg(k.queue_name), array_agg(k.priority),
        array_agg(coalesce(k.unknown_rule, 'return')), min(k.least_parent)
    into v_ids, v_has_keys, v_queues, v_priorities, v_rules, v_least_parent
    from kinds k;
    perform set_config('pgqueue.in_bulk', 'off', true);
    if v_least_parent <= 0 then
        perform pgqueue._refuse_parent(v_least_parent);
    end if;
    if v_has_keys then
        -- Keys are taken in the order of their bytes, as clients sort what takes several calls, so that two
        -- transactions with the same keys never deadlock.
        return query select g.position_no, s.task_id, s.created
        from (
            select t.*
            from pgqueue._given_tasks(p_tasks) t
            order by t.unique_key collate "C" nulls first, t.task_type collate "C", t.position_no
        ) g
        cross join lateral pgqueue.submit_or_get(
            g.task_type, g.payload, g.queue_name, g.priority, g.max_retries, g.timeout, g.run_at,
            g.unique_key, g.user_id, g.project_id, g.metadata, g.on_conflict, g.parent_id
        ) s
        order by g.position_no;
        return;
    end if;
    perform pgqueue._check_submit(k.priority, k.rule) from unnest(v_priorities, v_rules) as k (priority, rule);
    perform pgqueue._admit(k.queue_name, k.priority) from unnest(v_queues, v_priorities) as k (queue_name, priority);
    return query select i.nr, i.id, true from unnest(v_ids) with ordinality as i (id, nr);
end $$;

comment on function pgqueue.submit_many(jsonb) is
'Submits an array of objects with the fields of submit(); returns one row for each, in their order.';

drop function if exists pgqueue._given_tasks(jsonb);

create or replace function pgqueue._given_tasks(p_tasks jsonb)
returns table (
    position_no bigint, task_type text, payload jsonb, queue_name text, priority int, max_retries int, timeout int,
    run_at timestamptz, unique_key text, user_id text, project_id text, metadata jsonb, on_conflict text,
    parent_id bigint
)
language sql stable
as $$
    select
        g.position_no, g.task_type, coalesce(g.payload, '{}'), coalesce(g.queue_name, 'default'), coalesce(g.priority, 5),
        coalesce(g.max_retries, 3), g.timeout, g.run_at, g.unique_key, g.user_id, g.project_id, g.metadata,
        coalesce(g.on_conflict, 'return'), g.parent_id
    from rows from (
        jsonb_to_recordset(p_tasks) as (
            task_type text, payload jsonb, queue_name text, priority int, max_retries int, timeout int,
            run_at timestamptz, unique_key text, user_id text, project_id text, metadata jsonb, on_conflict text,
            parent_id bigint
        )
    ) with ordinality as g (
        task_type, payload, queue_name, priority, max_retries, timeout,
        run_at, unique_key, user_id, project_id, metadata, on_conflict, parent_id, position_no
    )
$$;

comment on function pgqueue._given_tasks(jsonb) is 'The rows of a submit_many, with their defaults.';

-- What the trigger does for a row.
create or replace function pgqueue._admit(p_queue_name text, p_priority int) returns void
language plpgsql
as $$
declare
    v_capacity int;
begin
    select q.capacity into v_capacity from pgqueue.queues q where q.name = p_queue_name;
    if not found then
        perform pgqueue._queue_not_found(p_queue_name);
    end if;
    insert into pgqueue.lanes (queue_name, rank)
    select p_queue_name, -p_priority
    where not exists (select from pgqueue.lanes l where l.queue_name = p_queue_name and l.rank = -p_priority);
    if v_capacity is not null then
        perform pgqueue._check_capacity(p_queue_name, v_capacity);
    end if;
    perform pgqueue._wake(p_queue_name);
end $$;

comment on function pgqueue._admit(text, int) is 'Notes the lane of tasks that a submit_many has added, checks their queue''s capacity, wakes.';

drop function if exists pgqueue._admit_many(jsonb);
drop function if exists pgqueue._check_capacity(text, int, int);
