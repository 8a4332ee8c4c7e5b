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
    perform pgqueue._forget_lanes();
    perform pgqueue._count_queues();
    perform pgqueue._forget_ticks();
    perform pgqueue._forget_operations();
    delete from pgqueue.listeners l where l.fresh_until < pgqueue._now();
    delete from pgqueue.waits w
    using pgqueue.workers k
    where k.id = w.worker_id and (k.lost_at is not null or k.heartbeat_at + k.lease < pgqueue._now());
    delete from pgqueue.task_progress p
    where p.updated_at < pgqueue._now() - interval '1 minute'
    and not exists (select from pgqueue.tasks t where t.id = p.task_id);
    return true;
end $$;

comment on function pgqueue.maintain(int) is 'Partitions ahead, lanes, counts and leftovers; false if another session is at it.';

-- One of each lane is enough.
create or replace function pgqueue._forget_lanes() returns void
language sql volatile
as $$
    delete from pgqueue.lanes l
    using pgqueue.lanes other
    where other.queue_name = l.queue_name and other.rank = l.rank and other.ctid < l.ctid
$$;

comment on function pgqueue._forget_lanes() is 'Removes doubles from the cache of lanes.';

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
    where exists (select from pgqueue.tasks t where t.queue_name = q.name offset 10000)
    or exists (select from pgqueue.queue_counts n where n.queue_name = q.name and n.waiting > 0)
    on conflict (queue_name) do update set
        waiting = excluded.waiting, scheduled = excluded.scheduled, blocked = excluded.blocked, counted_at = excluded.counted_at
$$;

comment on function pgqueue._count_queues() is 'Notes the length of long queues.';

-- Days that lie wholly before the bound are dropped by whoever runs the statements of _partitions_before;
-- this deletes what remains of the day of the bound, in the caller's transaction.
create or replace function pgqueue.cleanup(p_age interval) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_before timestamptz := pgqueue._now() - p_age;
    v_count bigint;
begin
    if p_age is null or p_age < interval '0' then
        raise exception using errcode = 'QU001',
            message = format('the age of tasks to clean up must not be negative or null, not %s', p_age),
            detail = jsonb_build_object('age', p_age),
            hint = 'Give an interval, for instance 30 days.';
    end if;
    delete from pgqueue.task_logs l
    where l.logged_at < v_before
    and not exists (select from pgqueue.tasks t where t.id = l.task_id);
    delete from pgqueue.executions e
    where e.finished_at < v_before
    and not exists (select from pgqueue.tasks t where t.id = e.task_id);
    select pgqueue._remove_finished(array_agg(f.id), array_agg(f.finished_at), true) into v_count
    from pgqueue.finished_tasks f
    where f.finished_at < v_before;
    return v_count;
end $$;

comment on function pgqueue.cleanup(interval) is 'Deletes tasks that finished longer ago, with their executions and logs; returns how many tasks.';
