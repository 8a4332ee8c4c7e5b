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

-- Lists walk down the ids, by the index that fits the filter best, live and finished tasks apart. A walk ends
-- after p_most rows, whether they matched or not, so that a filter that hardly anything matches costs no more
-- than any other. It returns one row more where it ended early: nothing from there down was looked at.
create or replace function pgqueue._matches(
    p_row_queue_name text, p_row_status text, p_row_task_type text, p_row_user_id text, p_row_project_id text, p_row_created_at timestamptz,
    p_queue_name text, p_status text, p_task_type text, p_user_id text, p_project_id text, p_created_from timestamptz, p_created_to timestamptz
) returns boolean
language sql immutable parallel safe
as $$
    select (p_queue_name is null or p_row_queue_name = p_queue_name)
    and (p_status is null or p_row_status = p_status)
    and (p_task_type is null or p_row_task_type = p_task_type)
    and (p_user_id is null or p_row_user_id = p_user_id)
    and (p_project_id is null or p_row_project_id = p_project_id)
    and (p_created_from is null or p_row_created_at >= p_created_from)
    and (p_created_to is null or p_row_created_at < p_created_to)
$$;

comment on function pgqueue._matches(
    text, text, text, text, text, timestamptz, text, text, text, text, text, timestamptz, timestamptz
) is 'Whether a task matches every filter that is given.';

create or replace function pgqueue._walk_live(
    p_queue_name text, p_status text, p_task_type text, p_user_id text, p_project_id text, p_created_from timestamptz, p_created_to timestamptz,
    p_after_id bigint, p_before_id bigint, p_most int, p_parent_id bigint
) returns table (id bigint, finished_at timestamptz, is_match boolean)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_size int;
begin
    if p_status in ('completed', 'failed', 'cancelled') then
        return;
    elsif p_queue_name is not null and p_status is distinct from 'running' and p_user_id is null and p_project_id is null and p_parent_id is null then
        select count(*) into v_size from (
            (select from pgqueue.tasks t where t.queue_name = p_queue_name and t.waits_for = 0 limit p_most)
            union all
            (select from pgqueue.tasks t where t.queue_name = p_queue_name and t.waits_for > 0 limit p_most)
            limit p_most
        ) counted;
    end if;
    return query
    select
        t.id, null::timestamptz,
        pgqueue._matches(
            t.queue_name, t.status, t.task_type, t.user_id, t.project_id, t.created_at,
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to
        )
    from (
        (
            select t.*
            from pgqueue.claims c
            join pgqueue.tasks t on t.id = any(c.ids)
            where p_status = 'running' and p_parent_id is null and t.status = 'running' and t.worker_id = c.worker_id and t.claim_no = c.claim_no
            and t.id > p_after_id and t.id < p_before_id
            order by t.id desc limit p_most + 1
        )
        union all
        (
            select t.*
            from pgqueue.tasks t
            where t.parent_id = p_parent_id and t.id > p_after_id and t.id < p_before_id
            order by t.id desc limit p_most + 1
        )
        union all
        (
            select t.*
            from pgqueue.tasks t
            where p_status is distinct from 'running' and p_parent_id is null
            and t.user_id = p_user_id and t.id > p_after_id and t.id < p_before_id
            order by t.id desc limit p_most + 1
        )
        union all
        (
            select t.*
            from pgqueue.tasks t
            where p_status is distinct from 'running' and p_user_id is null and p_parent_id is null
            and t.project_id = p_project_id and t.id > p_after_id and t.id < p_before_id
            order by t.id desc limit p_most + 1
        )
        union all
        (
            -- offset 0: no plan may look for the ids first
            select q.*
            from (
                select t.* from pgqueue.tasks t where v_size < p_most and t.queue_name = p_queue_name and t.waits_for = 0
                union all
                select t.* from pgqueue.tasks t where v_size < p_most and t.queue_name = p_queue_name and t.waits_for > 0
                offset 0
            ) q
            where q.id > p_after_id and q.id < p_before_id
        )
        union all
        (
            select t.*
            from pgqueue.tasks t
            where p_status is distinct from 'running' and p_user_id is null and p_project_id is null and p_parent_id is null
            and coalesce(v_size >= p_most, true) and t.id > p_after_id and t.id < p_before_id
            order by t.id desc limit p_most + 1
        )
    ) t;
end $$;

comment on function pgqueue._walk_live(text, text, text, text, text, timestamptz, timestamptz, bigint, bigint, int, bigint) is
'Live tasks between two ids and whether they match, newest first, at most p_most and one.';

create or replace function pgqueue._walk_finished(
    p_queue_name text, p_status text, p_task_type text, p_user_id text, p_project_id text, p_created_from timestamptz, p_created_to timestamptz,
    p_after_id bigint, p_before_id bigint, p_most int, p_parent_id bigint
) returns table (id bigint, finished_at timestamptz, is_match boolean)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
begin
    if p_status in ('blocked', 'pending', 'running') then
        return;
    elsif p_parent_id is not null then
        return query
        select f.id, f.finished_at, pgqueue._matches(
            f.queue_name, f.status, f.task_type, f.user_id, f.project_id, f.created_at,
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to
        )
        from pgqueue.finished_tasks f
        where f.parent_id = p_parent_id and f.id > p_after_id and f.id < p_before_id
        order by f.id desc limit p_most + 1;
    elsif p_user_id is not null then
        return query
        select f.id, f.finished_at, pgqueue._matches(
            f.queue_name, f.status, f.task_type, f.user_id, f.project_id, f.created_at,
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to
        )
        from pgqueue.finished_tasks f
        where f.user_id = p_user_id and f.id > p_after_id and f.id < p_before_id
        order by f.id desc limit p_most + 1;
    elsif p_project_id is not null then
        return query
        select f.id, f.finished_at, pgqueue._matches(
            f.queue_name, f.status, f.task_type, f.user_id, f.project_id, f.created_at,
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to
        )
        from pgqueue.finished_tasks f
        where f.project_id = p_project_id and f.id > p_after_id and f.id < p_before_id
        order by f.id desc limit p_most + 1;
    elsif p_status in ('failed', 'cancelled') then
        return query
        select f.id, f.finished_at, pgqueue._matches(
            f.queue_name, f.status, f.task_type, f.user_id, f.project_id, f.created_at,
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to
        )
        from pgqueue.finished_tasks f
        where f.status <> 'completed' and f.id > p_after_id and f.id < p_before_id
        order by f.id desc limit p_most + 1;
    else
        return query
        select f.id, f.finished_at, pgqueue._matches(
            f.queue_name, f.status, f.task_type, f.user_id, f.project_id, f.created_at,
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to
        )
        from pgqueue.finished_tasks f
        where f.id > p_after_id and f.id < p_before_id
        order by f.id desc limit p_most + 1;
    end if;
end $$;

comment on function pgqueue._walk_finished(text, text, text, text, text, timestamptz, timestamptz, bigint, bigint, int, bigint) is
'Finished tasks between two ids and whether they match, newest first, at most p_most and one.';

-- Ids grow with created_at, except where somebody inserts another created_at by hand: a minute of doubt is
-- left at both ends of a window, what is further out of order than that is not found by it.
-- A look costs the start of a scan in every day of history, so few are taken: where ids came at an even pace,
-- one a little below and one a little above where the moment should be leave a hundredth; every third halves.
create or replace function pgqueue._ids_around(p_created_at timestamptz, out after_id bigint, out before_id bigint)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_after_at timestamptz;
    v_before_at timestamptz;
    v_look int := 0;
    v_share double precision;
    v_middle bigint;
    v_id bigint;
    v_created_at timestamptz;
begin
    select a.id - 1, a.created_at into after_id, v_after_at
    from (
        (select t.id, t.created_at from pgqueue.tasks t order by t.id limit 1)
        union all
        (select f.id, f.created_at from pgqueue.finished_tasks f order by f.id limit 1)
    ) a
    order by a.id
    limit 1;
    select a.id + 1, a.created_at into before_id, v_before_at
    from (
        (select t.id, t.created_at from pgqueue.tasks t order by t.id desc limit 1)
        union all
        (select f.id, f.created_at from pgqueue.finished_tasks f order by f.id desc limit 1)
    ) a
    order by a.id desc
    limit 1;
    after_id := coalesce(after_id, 0);
    before_id := coalesce(before_id, 1);
    while before_id - after_id > 1000 loop
        v_look := v_look + 1;
        -- Of each moment, because some may be infinite.
        v_share := (date_part('epoch', greatest(least(p_created_at, v_before_at), v_after_at)) - date_part('epoch', v_after_at))
            / nullif(date_part('epoch', v_before_at) - date_part('epoch', v_after_at), 0);
        v_share := case v_look % 3 when 1 then v_share - 0.005 when 2 then v_share + 0.005 end;
        v_middle := after_id + greatest(1, least(floor(coalesce(v_share, 0.5) * (before_id - after_id)), before_id - after_id - 1))::bigint;
        select a.id, a.created_at into v_id, v_created_at
        from (
            (select t.id, t.created_at from pgqueue.tasks t where t.id >= v_middle and t.id < before_id order by t.id limit 1)
            union all
            (select f.id, f.created_at from pgqueue.finished_tasks f where f.id >= v_middle and f.id < before_id order by f.id limit 1)
        ) a
        order by a.id
        limit 1;
        if v_created_at < p_created_at then
            after_id := v_id;
            v_after_at := v_created_at;
        else
            before_id := v_middle;
            v_before_at := coalesce(v_created_at, v_before_at);
        end if;
    end loop;
end $$;

comment on function pgqueue._ids_around(timestamptz) is 'Two ids between which those lie that were given out at a moment.';

-- Looks at few rows first, because mostly they suffice.
create or replace function pgqueue._find_tasks(
    p_queue_name text, p_status text, p_task_type text, p_user_id text, p_project_id text, p_created_from timestamptz, p_created_to timestamptz,
    p_before_id bigint, p_wanted int, p_most int, p_parent_id bigint,
    out ids bigint[], out finished_ats timestamptz[], out stopped_before bigint
)
language plpgsql stable
set jit = off
as $$
declare
    v_after_id bigint := -9223372036854775808;
    v_before_id bigint := coalesce(p_before_id, 9223372036854775807);
    v_all int := greatest(p_most, p_wanted);
    v_most int := least(200 + 2 * p_wanted, v_all);
begin
    if p_created_from is not null then
        v_after_id := (select i.after_id from pgqueue._ids_around(p_created_from - interval '1 minute') i);
    end if;
    if p_created_to is not null then
        v_before_id := least(v_before_id, (select i.before_id from pgqueue._ids_around(p_created_to + interval '1 minute') i));
    end if;
    loop
        with walked as materialized (
            select 'live' as part, w.*
            from pgqueue._walk_live(
                p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, v_after_id, v_before_id, v_most,
                p_parent_id
            ) w
            union all
            select 'finished', w.*
            from pgqueue._walk_finished(
                p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, v_after_id, v_before_id, v_most,
                p_parent_id
            ) w
        ),
        stopped as (
            select max(s.id) as id
            from (select min(w.id) as id from walked w group by w.part having count(*) > v_most) s
        ),
        found as (
            select w.id, w.finished_at
            from walked w cross join stopped s
            where w.is_match and (s.id is null or w.id > s.id)
            order by w.id desc
            limit p_wanted
        )
        select
            coalesce(array_agg(f.id order by f.id desc), '{}'), coalesce(array_agg(f.finished_at order by f.id desc), '{}'),
            (select s.id + 1 from stopped s)
        into ids, finished_ats, stopped_before
        from found f;
        exit when stopped_before is null or cardinality(ids) = p_wanted or v_most = v_all;
        v_most := least(16 * v_most, v_all);
    end loop;
end $$;

comment on function pgqueue._find_tasks(text, text, text, text, text, timestamptz, timestamptz, bigint, int, int, bigint) is
'The newest p_wanted tasks that match, and where the search stopped early: it looked at nothing with a smaller id.';

-- Row by row, by its key; finished_at is null for live ones.
create or replace function pgqueue._tasks_by_key(p_ids bigint[], p_finished_ats timestamptz[]) returns setof pgqueue.all_tasks
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query
    select a.*
    from unnest(p_ids, p_finished_ats) as u (id, finished_at)
    cross join lateral (
        select x.* from pgqueue.all_tasks x where x.id = u.id and x.finished_at = u.finished_at
        union all
        select x.* from pgqueue.all_tasks x where u.finished_at is null and x.id = u.id and x.finished_at is null
    ) a
    order by a.id desc;
end $$;

comment on function pgqueue._tasks_by_key(bigint[], timestamptz[]) is 'Tasks whose keys were found, newest id first.';

drop function if exists pgqueue.list_tasks(text, text, text, text, text, timestamptz, timestamptz, int, bigint, bigint);

-- Newest id first. A search ends after 3,000 live and 3,000 finished rows; list_cursor tells where.
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
    p_before_id bigint default null,
    p_parent_id bigint default null
) returns setof pgqueue.all_tasks
language plpgsql stable security definer set search_path = '' set jit = off
as $$
declare
    v_ids bigint[];
    v_finished_ats timestamptz[];
begin
    perform pgqueue._check_filter(p_status, p_limit, p_offset);
    select f.ids[p_offset + 1:], f.finished_ats[p_offset + 1:] into v_ids, v_finished_ats
    from pgqueue._find_tasks(
        p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_before_id,
        (p_offset + p_limit)::int, 3000, p_parent_id
    ) f;
    if v_ids <> '{}' then
        return query select k.* from pgqueue._tasks_by_key(v_ids, v_finished_ats) k;
    end if;
end $$;

comment on function pgqueue.list_tasks(text, text, text, text, text, timestamptz, timestamptz, int, bigint, bigint, bigint) is
'Tasks that match every filter given, newest id first, among the newest 3,000 live and 3,000 finished ones that the filter''s index leads to.';

drop function if exists pgqueue.list_cursor(text, text, text, text, text, timestamptz, timestamptz, bigint);

create or replace function pgqueue.list_cursor(
    p_queue_name text default null,
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_before_id bigint default null,
    p_parent_id bigint default null
) returns bigint
language plpgsql stable security definer set search_path = '' set jit = off
as $$
begin
    perform pgqueue._check_filter(p_status, 1, 0);
    return (
        select f.stopped_before
        from pgqueue._find_tasks(
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_before_id, 3000, 3000, p_parent_id
        ) f
    );
end $$;

comment on function pgqueue.list_cursor(text, text, text, text, text, timestamptz, timestamptz, bigint, bigint) is
'Where a list_tasks that found too few has stopped: the p_before_id to go on with, null where it saw all.';

drop function if exists pgqueue.count_tasks(text, text, text, text, text, timestamptz, timestamptz, int);

-- By queue, status and type what finished is known from rollups, and what lives from the index of lanes; for
-- other filters p_most rows are looked at, one half of them live, the other finished.
create or replace function pgqueue.count_tasks(
    p_queue_name text default null,
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_most int default 10000,
    p_parent_id bigint default null
) returns table (total bigint, is_capped boolean)
language plpgsql stable security definer set search_path = '' set jit = off
as $$
declare
    v_finished bigint := 0;
    v_live bigint := 0;
    v_is_capped boolean := false;
begin
    perform pgqueue._check_filter(p_status, p_most, 0);
    if num_nonnulls(p_user_id, p_project_id, p_created_from, p_created_to, p_parent_id) > 0 then
        return query
        select cardinality(f.ids)::bigint, f.stopped_before is not null
        from pgqueue._find_tasks(
            p_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, null, (p_most + 1) / 2, (p_most + 1) / 2,
            p_parent_id
        ) f;
        return;
    end if;
    if p_status is null or p_status in ('completed', 'failed', 'cancelled') then
        v_finished := pgqueue._count_kept(p_queue_name, p_status, p_task_type);
    end if;
    if p_task_type is not null then
        select count(*) filter (where w.is_match and w.nr <= p_most), count(*) > p_most into v_live, v_is_capped
        from (
            select w.is_match, row_number() over (order by w.id desc) as nr
            from pgqueue._walk_live(
                p_queue_name, p_status, p_task_type, null, null, null, null, -9223372036854775808, 9223372036854775807, p_most, null
            ) w
        ) w;
    elsif p_status is null or p_status in ('blocked', 'pending', 'running') then
        select
            coalesce(sum(case coalesce(p_status, 'all')
                when 'pending' then l.pending + l.scheduled
                when 'blocked' then l.blocked
                when 'running' then l.running
                else l.pending + l.scheduled + l.blocked + l.running
            end), 0),
            coalesce(bool_or(l.counted_at is not null), false)
        into v_live, v_is_capped
        from pgqueue.queues q
        cross join lateral pgqueue._live_counts(q.name, p_most) l
        where p_queue_name is null or q.name = p_queue_name;
    end if;
    return query select v_finished + v_live, v_is_capped;
end $$;

comment on function pgqueue.count_tasks(text, text, text, text, text, timestamptz, timestamptz, int, bigint) is
'How many tasks match a list_tasks; is_capped where that is not exact: more than p_most live ones, more than p_most rows to look at, or an old snapshot.';

create or replace function pgqueue._count_kept(p_queue_name text, p_status text, p_task_type text) returns bigint
language plpgsql stable
set jit = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_mark timestamptz := pgqueue._folded_before();
    v_days timestamptz[] := array(
        select to_date(substring(c.relname from '^finished_tasks_([0-9]{8})$'), 'YYYYMMDD')::timestamp at time zone 'UTC'
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'pgqueue.finished_tasks'::regclass
    );
begin
    return (
        select coalesce(sum(u.tasks), 0)
        from (
            select r.kept as tasks
            from pgqueue.task_rollups r
            where r.step = 'day' and r.bucket = any(v_days)
            and (p_queue_name is null or r.queue_name = p_queue_name)
            and (p_status is null or r.status = p_status)
            and (p_task_type is null or r.task_type = p_task_type)
            union all
            select -d.tasks
            from pgqueue.task_departures d
            where d.finished_at < v_mark and pgqueue._floor(d.finished_at, 'day') = any(v_days)
            and (p_queue_name is null or d.queue_name = p_queue_name)
            and (p_status is null or d.status = p_status)
            and (p_task_type is null or d.task_type = p_task_type)
            union all
            select 1
            from pgqueue.finished_tasks f
            where f.finished_at >= v_mark
            and (p_queue_name is null or f.queue_name = p_queue_name)
            and (p_status is null or f.status = p_status)
            and (p_task_type is null or f.task_type = p_task_type)
        ) u
    );
end $$;

comment on function pgqueue._count_kept(text, text, text) is 'How many finished tasks are kept, from the rollups of the days that are there.';

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
    if coalesce(p_limit, 0) < 1 or coalesce(p_offset, -1) < 0 then
        raise exception using errcode = 'QU001',
            message = format('a page cannot have %s rows from row %s on', coalesce(p_limit::text, 'null'), coalesce(p_offset::text, 'null')),
            detail = jsonb_build_object('limit', p_limit, 'offset', p_offset),
            hint = 'Pages and page sizes start at 1.';
    end if;
    if p_limit + p_offset > 10000 then
        raise exception using errcode = 'QU001',
            message = format('a page cannot reach row %s: pages end at row 10000', p_limit + p_offset),
            detail = jsonb_build_object('limit', p_limit, 'offset', p_offset),
            hint = 'Give the smallest id seen so far as before_id, and no offset.';
    end if;
end $$;

comment on function pgqueue._check_filter(text, int, bigint) is 'Raises QU001 for a filter that can match nothing and a page that is too far away.';

create or replace function pgqueue._check_limit(p_limit int) returns void
language plpgsql immutable
as $$
begin
    if coalesce(p_limit, 0) < 1 then
        raise exception using errcode = 'QU001',
            message = format('a limit must be 1 or more, not %s', coalesce(p_limit::text, 'null')),
            detail = jsonb_build_object('limit', p_limit),
            hint = 'Say how many rows you want.';
    end if;
end $$;

comment on function pgqueue._check_limit(int) is 'Raises QU001 for a number of rows that is not positive.';

create or replace function pgqueue.get_executions(p_id bigint) returns setof pgqueue.executions
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
begin
    return query select e.* from pgqueue.executions e where e.task_id = p_id order by e.attempt, e.finished_at;
end $$;

comment on function pgqueue.get_executions(bigint) is 'The ended attempts of a task, in their order.';

create or replace function pgqueue.get_logs(p_id bigint, p_after bigint default 0, p_limit int default 1000) returns setof pgqueue.task_logs
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
begin
    perform pgqueue._check_limit(p_limit);
    return query select l.* from pgqueue.task_logs l where l.task_id = p_id and l.id > p_after order by l.id limit p_limit;
end $$;

comment on function pgqueue.get_logs(bigint, bigint, int) is 'What a task logged after a line, in order of arrival.';

-- Failed and cancelled tasks that retry_task would accept, newest first, among the newest 5,000 such.
create or replace function pgqueue.get_retryable_tasks(p_limit int default 100, p_queue_name text default null) returns setof pgqueue.all_tasks
language plpgsql stable security definer
set search_path = '' set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set plan_cache_mode = force_generic_plan
as $$
declare
    v_ids bigint[];
    v_finished_ats timestamptz[];
begin
    perform pgqueue._check_limit(p_limit);
    select array_agg(r.id), array_agg(r.finished_at) into v_ids, v_finished_ats
    from (
        select u.id, u.finished_at
        from (
            select f.id, f.finished_at, f.queue_name, f.task_type, f.unique_key
            from pgqueue.finished_tasks f
            where f.status <> 'completed'
            order by f.id desc
            limit 5000
        ) u
        left join lateral (
            select true as is_taken from pgqueue.tasks t where t.task_type = u.task_type and t.unique_key = u.unique_key limit 1
        ) live on true
        where (p_queue_name is null or u.queue_name = p_queue_name)
        and live.is_taken is null
        limit p_limit
    ) r;
    return query select k.* from pgqueue._tasks_by_key(v_ids, v_finished_ats) k;
end $$;

comment on function pgqueue.get_retryable_tasks(int, text) is 'Failed and cancelled tasks that can be retried now, among the newest 5,000.';

-- The first reason that holds, in the order in which an operator would ask.
create or replace function pgqueue.why_waiting(p_id bigint) returns text
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_task pgqueue.tasks;
    v_queue pgqueue.queues;
    v_now timestamptz := pgqueue._now();
    v_workers int;
    v_paused int;
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
    select
        count(*), count(w.paused_at),
        sum(coalesce((w.concurrency ->> v_task.queue_name)::int, v_queue.concurrency)) filter (where w.paused_at is null)
    into v_workers, v_paused, v_slots
    from pgqueue.workers w
    where v_task.queue_name = any(w.queues) and w.lost_at is null and w.heartbeat_at + w.lease > v_now;
    if v_workers = 0 then
        return format('no worker serves queue %L', v_task.queue_name);
    elsif v_paused = v_workers then
        return format('all workers of queue %L are paused (%s)', v_task.queue_name, v_paused);
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

drop function if exists pgqueue._walk_live(text, text, text, text, text, timestamptz, timestamptz, bigint, bigint, int);
drop function if exists pgqueue._walk_finished(text, text, text, text, text, timestamptz, timestamptz, bigint, bigint, int);
drop function if exists pgqueue._find_tasks(text, text, text, text, text, timestamptz, timestamptz, bigint, int, int);
