-- One question of an operator each.

-- Dropped first: its columns changed.
drop view if exists pgqueue.queue_overview;
create or replace view pgqueue.queue_overview as
select
    q.name,
    l.pending + l.scheduled + l.blocked as waiting,
    l.pending,
    l.scheduled,
    l.blocked,
    l.running,
    q.concurrency,
    q.capacity,
    (
        select count(*)
        from pgqueue.workers w
        where q.name = any(w.queues) and w.lost_at is null and w.heartbeat_at + w.lease > pgqueue._now()
    ) as workers,
    pgqueue._now() - l.oldest_run_at as oldest_wait,
    l.counted_at,
    q.paused_at,
    q.pause_reason
from pgqueue.queues q
cross join lateral pgqueue._live_counts(q.name) l
order by q.name;

comment on view pgqueue.queue_overview is
'How do the queues stand? pending is due, scheduled is not yet; exact up to 10,000 each, else as counted at counted_at.';

create or replace view pgqueue.running_tasks as
select
    t.id, t.task_type, t.queue_name, t.attempt, t.started_at, pgqueue._now() - t.started_at as running_for,
    t.timeout, t.worker_id, w.hostname, w.pid, p.progress, p.message, t.cancel_requested_at
from pgqueue.claims c
join pgqueue.tasks t on t.id = any(c.ids)
join pgqueue.workers w on w.id = c.worker_id
left join pgqueue.task_progress p on p.task_id = t.id
where t.status = 'running' and t.worker_id = c.worker_id and t.claim_no = c.claim_no;

comment on view pgqueue.running_tasks is 'What runs, where, since when, how far?';

create or replace view pgqueue.failed_tasks as
select f.id, f.task_type, f.queue_name, f.finished_at, f.attempt, f.failures, f.crashes, f.error, f.payload
from pgqueue.finished_tasks f
where f.status = 'failed'
order by f.finished_at desc;

comment on view pgqueue.failed_tasks is 'What failed for good, and why? Newest first.';

create or replace view pgqueue.retrying_tasks as
select
    t.id, t.task_type, t.queue_name, t.failures, t.max_retries, t.crashes, t.run_at, t.run_at - pgqueue._now() as due_in, t.error
from pgqueue.tasks t
where t.status = 'pending' and (t.failures > 0 or t.crashes > 0)
order by t.run_at;

comment on view pgqueue.retrying_tasks is 'What failed and will be tried again, when?';

create or replace view pgqueue.stuck_tasks as
select s.id, s.task_type, s.queue_name, s.worker_id, s.running_for, s.reason
from (
    select
        r.id, r.task_type, r.queue_name, r.worker_id, r.running_for,
        case
            when r.running_for > make_interval(secs => r.timeout + 30) then 'ran past its timeout'
            when w.lost_at is not null then 'its worker was lost'
            when w.heartbeat_at + w.lease < pgqueue._now() then 'its worker is not heard'
            when r.cancel_requested_at < pgqueue._now() - interval '30 seconds' then 'its cancellation is not heeded'
        end as reason
    from pgqueue.running_tasks r
    join pgqueue.workers w on w.id = r.worker_id
) s
where s.reason is not null;

comment on view pgqueue.stuck_tasks is 'What runs and should not?';

create or replace view pgqueue.worker_overview as
select
    w.id, w.hostname, w.pid, w.version, w.queues, w.concurrency, w.started_at, pgqueue._now() - w.heartbeat_at as heartbeat_age,
    case
        when w.lost_at is not null then 'lost'
        when w.heartbeat_at + w.lease < pgqueue._now() then 'silent'
        when w.stop_requested_at is not null then 'stopping'
        when w.paused_at is not null then 'paused'
        else 'alive'
    end as state,
    (
        select count(*)
        from pgqueue.claims c
        join pgqueue.tasks t on t.id = any(c.ids)
        where c.worker_id = w.id and t.worker_id = w.id and t.status = 'running' and t.claim_no = c.claim_no
    ) as running,
    w.status,
    w.paused_at,
    w.pause_reason
from pgqueue.workers w
order by w.id;

comment on view pgqueue.worker_overview is 'Which workers are there, are they alive, what do they do?';

create or replace view pgqueue.health as
select
    (select max(pgqueue._now() - a.xact_start) from pg_catalog.pg_stat_activity a where a.datname = current_database()) as oldest_transaction,
    (select max(age(a.backend_xmin)) from pg_catalog.pg_stat_activity a where a.datname = current_database()) as oldest_snapshot_xids,
    (select s.n_dead_tup from pg_catalog.pg_stat_user_tables s where s.relid = 'pgqueue.tasks'::regclass) as dead_tasks,
    (select s.n_live_tup from pg_catalog.pg_stat_user_tables s where s.relid = 'pgqueue.tasks'::regclass) as live_tasks,
    (select s.last_autovacuum from pg_catalog.pg_stat_user_tables s where s.relid = 'pgqueue.tasks'::regclass) as last_autovacuum,
    pg_catalog.pg_notification_queue_usage() as notify_queue_usage,
    (
        select count(*)
        from unnest(array[0, 1, 2]) d
        where to_regclass('pgqueue.' || pgqueue._partition_name('finished_tasks', (pgqueue._now() at time zone 'UTC')::date + d)) is null
    ) as missing_partitions,
    (select count(*) from pgqueue.worker_overview w where w.state in ('alive', 'paused')) as workers_alive,
    (select count(*) from pgqueue.worker_overview w where w.state in ('lost', 'silent')) as workers_lost,
    (select count(*) from pgqueue.stuck_tasks) as stuck_tasks,
    (
        select count(*)
        from pgqueue._days_overdue((select max(k) from pgqueue.retention r, pgqueue._keeps(r.keep_completed, r.keep_failed, r.keep_cancelled) k))
    ) as overdue_days,
    (select pgqueue._now() - r.started_at from pgqueue.retention r where r.started_at > '-infinity') as last_retention,
    (
        select count(*)
        from pgqueue.operations o
        where o.state = 'running' and o.updated_at < pgqueue._now() - interval '5 minutes'
    ) as forgotten_operations,
    (select pgqueue._now() - s.folded_before from pgqueue.statistics_state s where isfinite(s.folded_before)) as statistics_lag;

comment on view pgqueue.health is
'Is anything in the way? Old transactions, dead rows, missing partitions, a full notification queue, lost workers, overdue history, late statistics.';
