-- What keeps the tables small. Every worker may call it; one at a time does it.

create or replace function pgqueue.maintain(p_days_ahead int default 14) returns boolean
language plpgsql volatile security definer set search_path = ''
as $$
begin
    if not pg_try_advisory_xact_lock(hashtextextended('pgqueue.maintain', 0)) then
        return false;
    end if;
    -- First, while this transaction has no id.
    perform pgqueue._fold_statistics();
    perform pgqueue._summarize_finished();
    perform pgqueue._make_partitions(p_days_ahead);
    perform pgqueue._adopt_queues();
    perform pgqueue._forget_lanes();
    perform pgqueue._sweep_lanes();
    perform pgqueue._count_queues();
    perform pgqueue._forget_ticks();
    perform pgqueue._forget_operations();
    delete from pgqueue.listeners l where l.fresh_until < pgqueue._now();
    delete from pgqueue.waits w where w.fresh_until < pgqueue._now();
    delete from pgqueue.task_progress p
    where p.updated_at < pgqueue._now() - interval '1 minute'
    and not exists (select from pgqueue.tasks t where t.id = p.task_id);
    return true;
end $$;

comment on function pgqueue.maintain(int) is 'Partitions ahead, lanes, counts and leftovers; false if another session is at it.';

-- Tasks whose queue is not there: it was deleted while a submit was open, or they came by restore. They are looked for
-- between the names that are known.
create or replace function pgqueue._adopt_queues() returns void
language plpgsql volatile
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
begin
    loop
        insert into pgqueue.queues (name)
        select next.name
        from (
            select k.name as above, lead(k.name) over (order by k.name) as below
            from (select '' as name union select q.name from pgqueue.queues q) k
        ) gap
        cross join lateral (
            (
                select t.queue_name as name
                from pgqueue.tasks t
                where t.waits_for = 0 and t.queue_name > gap.above and t.queue_name < gap.below
                order by t.queue_name
                limit 1
            )
            union all
            (
                select t.queue_name
                from pgqueue.tasks t
                where t.waits_for = 0 and t.queue_name > gap.above and gap.below is null
                order by t.queue_name
                limit 1
            )
        ) next
        on conflict do nothing;
        exit when not found;
    end loop;
end $$;

comment on function pgqueue._adopt_queues() is 'Makes the queues again that tasks wait in and that are not there.';

-- One of each lane is enough.
create or replace function pgqueue._forget_lanes() returns void
language sql volatile
as $$
    delete from pgqueue.lanes l
    using pgqueue.lanes other
    where other.queue_name = l.queue_name and other.rank = l.rank and other.ctid < l.ctid
$$;

comment on function pgqueue._forget_lanes() is 'Removes doubles from the cache of lanes.';

-- Looks for the first task of each lane that waits. Where that takes longer than p_dear (an old snapshot keeps the entries of
-- tasks that ended), it notes what lies behind, less what open submits may add there, and goes on from there for half a
-- minute; then it looks from the start again.
create or replace function pgqueue._sweep_lanes(p_dear interval default '5 milliseconds') returns void
language plpgsql volatile
set jit = off set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_lane record;
    v_began timestamptz;
    v_first timestamptz;
begin
    for v_lane in
        select distinct
            l.queue_name, l.rank, f.swept_at, case when f.swept_at between v_now - interval '30 seconds' and v_now then f.due_from end as due_from
        from pgqueue.lanes l
        left join pgqueue.lane_floors f on f.queue_name = l.queue_name and f.rank = l.rank
    loop
        v_began := clock_timestamp();
        v_first := (
            select t.run_at
            from pgqueue.tasks t
            where t.queue_name = v_lane.queue_name and t.rank = v_lane.rank and t.waits_for = 0 and t.status = 'pending'
            and t.run_at >= coalesce(v_lane.due_from, '-infinity')
            order by t.run_at
            limit 1
        );
        if v_lane.due_from is not null then
            update pgqueue.lane_floors f
            set due_from = least(v_first, v_now - interval '5 seconds')
            where f.queue_name = v_lane.queue_name and f.rank = v_lane.rank and f.due_from = v_lane.due_from;
        elsif clock_timestamp() - v_began > p_dear then
            insert into pgqueue.lane_floors as f (queue_name, rank, due_from, swept_at)
            values (v_lane.queue_name, v_lane.rank, least(v_first, v_now - interval '5 seconds'), v_now)
            on conflict (queue_name, rank) do update set due_from = excluded.due_from, swept_at = excluded.swept_at;
        elsif v_lane.swept_at is not null then
            delete from pgqueue.lane_floors f where f.queue_name = v_lane.queue_name and f.rank = v_lane.rank;
        end if;
    end loop;
end $$;

comment on function pgqueue._sweep_lanes(interval) is 'Notes where the tasks of each lane begin, if the way there is long.';

-- Counts the queues that are too long to be counted by those who ask.
create or replace function pgqueue._count_queues() returns void
language sql volatile
set jit = off
as $$
    insert into pgqueue.queue_counts as c (queue_name, waiting, scheduled, blocked, counted_at)
    select q.name, n.waiting, n.scheduled, n.blocked, pgqueue._now()
    from pgqueue.queues q
    cross join lateral (
        select
            count(*) as waiting,
            count(*) filter (where t.waits_for = 0 and t.run_at > pgqueue._now()) as scheduled,
            count(*) filter (where t.waits_for > 0) as blocked
        from pgqueue.tasks t
        where t.queue_name = q.name and t.status <> 'running'
    ) n
    where pgqueue._count_waiting(q.name, 10001) > 10000
    or exists (select from pgqueue.queue_counts n where n.queue_name = q.name and n.waiting > 0)
    on conflict (queue_name) do update set
        waiting = excluded.waiting, scheduled = excluded.scheduled, blocked = excluded.blocked, counted_at = excluded.counted_at
$$;

comment on function pgqueue._count_queues() is 'Notes the length of long queues.';

-- How long each kind of finished task is kept: the settings of queues, and what holds where they have none.
create or replace function pgqueue._keeps(p_completed interval, p_failed interval, p_cancelled interval) returns setof interval
language sql stable
as $$
    select unnest(array[p_completed, p_failed, p_cancelled])
    union
    select unnest(array[q.keep_completed, q.keep_failed, q.keep_cancelled]) from pgqueue.queues q
    except
    select null::interval
$$;

comment on function pgqueue._keeps(interval, interval, interval) is 'The different times for which finished tasks are kept.';

create or replace function pgqueue._forget_retention() returns void
language sql volatile
as $$ update pgqueue.retention set started_at = '-infinity', completed_at = null $$;

comment on function pgqueue._forget_retention() is 'What is kept has changed: the whole history is looked at again, soon.';

-- Whoever calls this first in p_every runs the pass: it drops the days that ended before drop_before, calls
-- expire() for each of the days, and end_retention(). No row: it is not due. Days in which nothing can have
-- fallen due since the last pass are left out.
create or replace function pgqueue.begin_retention(
    p_keep_completed interval, p_keep_failed interval, p_keep_cancelled interval, p_every interval default interval '10 minutes'
) returns table (started_at timestamptz, drop_before timestamptz, days date[])
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_last pgqueue.retention;
begin
    select r.* into v_last from pgqueue.retention r where r.started_at <= v_now - p_every for update skip locked;
    if not found then
        return;
    end if;
    if (p_keep_completed, p_keep_failed, p_keep_cancelled) is distinct from (v_last.keep_completed, v_last.keep_failed, v_last.keep_cancelled) then
        v_last.completed_at := null;
    end if;
    update pgqueue.retention r
    set started_at = v_now,
        completed_at = v_last.completed_at,
        keep_completed = p_keep_completed,
        keep_failed = p_keep_failed,
        keep_cancelled = p_keep_cancelled;
    started_at := v_now;
    select v_now - max(k) into drop_before from pgqueue._keeps(p_keep_completed, p_keep_failed, p_keep_cancelled) k;
    days := array(
        select d.day
        from pgqueue._days_of_history() d
        where d.to_moment > date_trunc('day', drop_before, 'UTC')
        and exists (
            select from pgqueue._keeps(p_keep_completed, p_keep_failed, p_keep_cancelled) k
            where d.from_moment < v_now - k and (v_last.completed_at is null or d.to_moment > v_last.completed_at - k)
        )
        order by d.day
    );
    return next;
end $$;

comment on function pgqueue.begin_retention(interval, interval, interval, interval) is
'What a pass over the history has to do, for the one who shall do it now; no row for everybody else.';

-- The same for a cleanup by hand: whatever is older than p_age, whatever the queues' settings.
create or replace function pgqueue.plan_cleanup(p_age interval) returns table (started_at timestamptz, drop_before timestamptz, days date[])
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform pgqueue._check_age(p_age);
    started_at := pgqueue._now();
    drop_before := started_at - least(p_age, interval '1000 years');
    days := array(
        select d.day
        from pgqueue._days_of_history() d
        where d.from_moment < drop_before and d.to_moment > date_trunc('day', drop_before, 'UTC')
    );
    return next;
end $$;

comment on function pgqueue.plan_cleanup(interval) is 'What a cleanup of all that is older has to do.';

create or replace function pgqueue.end_retention(p_started_at timestamptz) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.retention r set completed_at = p_started_at where r.started_at = p_started_at;
end $$;

comment on function pgqueue.end_retention(timestamptz) is 'A pass that began then left nothing that was due.';

-- Finished tasks go for good, with their executions and logs; statistics go on counting them. The caller has
-- locked them; their ends lie between p_from and p_to.
create or replace function pgqueue._delete_finished(p_ids bigint[], p_from timestamptz, p_to timestamptz) returns int
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_ids bigint[];
    v_finished_ats timestamptz[];
    v_created_at timestamptz;
begin
    select array_agg(f.id), array_agg(f.finished_at), date_trunc('day', min(f.created_at), 'UTC')
    into v_ids, v_finished_ats, v_created_at
    from pgqueue.finished_tasks f
    where f.id = any(p_ids) and f.finished_at between p_from and p_to;
    delete from pgqueue.attempts a where a.task_id = any(v_ids) and a.finished_at between v_created_at and p_to;
    delete from pgqueue.task_logs l where l.task_id = any(v_ids) and l.logged_at between v_created_at and p_to;
    return pgqueue._remove_finished(v_ids, v_finished_ats, true);
end $$;

comment on function pgqueue._delete_finished(bigint[], timestamptz, timestamptz) is
'Deletes finished tasks that the caller has locked, with their executions and logs; returns how many.';

-- Deletes what is due among the next p_limit tasks of a day, by id, in the caller's transaction. What others
-- hold is passed over and counted. last_id is where to go on; null at the end of the day.
create or replace function pgqueue.expire(
    p_day date, p_after_id bigint, p_keep_completed interval, p_keep_failed interval, p_keep_cancelled interval,
    p_by_queue boolean default true, p_limit int default 1000
) returns table (removed int, skipped int, last_id bigint)
language plpgsql volatile security definer
set search_path = '' set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_from timestamptz := p_day::timestamp at time zone 'UTC';
    v_to timestamptz := (p_day + 1)::timestamp at time zone 'UTC';
    v_due bigint[];
    v_locked bigint[];
begin
    with looked as (
        select f.id, f.finished_at, f.queue_name, f.status
        from pgqueue.finished_tasks f
        where f.finished_at >= v_from and f.finished_at < v_to and f.id > p_after_id
        order by f.id
        limit p_limit
    )
    select
        case when count(*) = p_limit then max(l.id) end,
        array_agg(l.id order by l.id) filter (
            where l.finished_at < v_now - case l.status
                when 'completed' then coalesce(q.keep_completed, p_keep_completed)
                when 'failed' then coalesce(q.keep_failed, p_keep_failed)
                else coalesce(q.keep_cancelled, p_keep_cancelled)
            end
        )
    into last_id, v_due
    from looked l
    left join pgqueue.queues q on p_by_queue and q.name = l.queue_name;
    v_locked := array(
        select f.id
        from pgqueue.finished_tasks f
        where f.finished_at >= v_from and f.finished_at < v_to and f.id = any(v_due)
        order by f.id
        for update skip locked
    );
    removed := pgqueue._delete_finished(v_locked, v_from, v_to);
    skipped := coalesce(cardinality(v_due), 0) - removed;
    return next;
end $$;

comment on function pgqueue.expire(date, bigint, interval, interval, interval, boolean, int) is
'Deletes the tasks of a day that were kept long enough, a batch at a time, with their executions and logs.';

-- For psql: all that is older than p_age, whatever the queues' settings, in one transaction. Clients drop the
-- days that are old as a whole, and delete the rest batch by batch.
create or replace function pgqueue.cleanup(p_age interval) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_count bigint := 0;
    v_day date;
    v record;
begin
    perform pgqueue._check_age(p_age);
    for v_day in select d.day from pgqueue._days_of_history() d where d.from_moment < pgqueue._now() - p_age order by d.day loop
        select 0 as removed, 0::bigint as last_id into v;
        while v.last_id is not null loop
            select e.removed, e.last_id into v from pgqueue.expire(v_day, v.last_id, p_age, p_age, p_age, false, 10000) e;
            v_count := v_count + v.removed;
        end loop;
    end loop;
    return v_count;
end $$;

comment on function pgqueue.cleanup(interval) is 'Deletes tasks that finished longer ago, with their executions and logs; returns how many tasks.';

create or replace function pgqueue._check_age(p_age interval) returns void
language plpgsql immutable
as $$
begin
    if p_age is null or p_age < interval '0' then
        raise exception using errcode = 'QU001',
            message = format('the age of tasks to clean up must not be negative or null, not %s', p_age),
            detail = jsonb_build_object('age', p_age),
            hint = 'Give an interval, for instance 30 days.';
    end if;
end $$;

comment on function pgqueue._check_age(interval) is 'Raises QU001 for an age that nothing has.';

-- How many tasks a cleanup would remove, counted day by day on what there is.
create or replace function pgqueue.count_older(p_age interval) returns bigint
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform pgqueue._check_age(p_age);
    return (select count(*) from pgqueue.finished_tasks f where f.finished_at < pgqueue._now() - p_age);
end $$;

comment on function pgqueue.count_older(interval) is 'How many tasks finished longer ago.';
