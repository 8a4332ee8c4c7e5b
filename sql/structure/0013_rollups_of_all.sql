-- What all queues and types did together is counted as well: a chart of everything then reads a few rows a
-- minute, however many queues and types there are.

alter table pgqueue.task_rollups drop constraint task_rollups_step;
alter table pgqueue.task_rollups add constraint task_rollups_step check (step in ('minute', 'hour', 'day', 'all_minute', 'all_hour', 'all_day', 'total'));

comment on column pgqueue.task_rollups.step is 'minute, hour or day of a queue and type; all_minute, all_hour or all_day of all together; or total.';
comment on column pgqueue.task_rollups.queue_name is 'The queue; empty for all.';
comment on column pgqueue.task_rollups.task_type is 'The type; empty for all.';

with summed as (
    select r.step, r.bucket, r.status, sum(r.finished) as finished, sum(r.run_us) as run_us, sum(r.wait_us) as wait_us
    from pgqueue.task_rollups r
    where r.step <> 'total'
    group by r.step, r.bucket, r.status
),
bins as (
    select r.step, r.bucket, r.status, 'run' as part, u.entry & 511 as bin, sum(u.entry >> 9) as tasks
    from pgqueue.task_rollups r
    cross join unnest(r.run_histogram) u (entry)
    group by 1, 2, 3, 5
    union all
    select r.step, r.bucket, r.status, 'wait', u.entry & 511, sum(u.entry >> 9)
    from pgqueue.task_rollups r
    cross join unnest(r.wait_histogram) u (entry)
    group by 1, 2, 3, 5
),
histograms as (
    select
        b.step, b.bucket, b.status,
        array_agg((b.tasks * 512 + b.bin)::bigint order by b.bin) filter (where b.part = 'run') as run,
        array_agg((b.tasks * 512 + b.bin)::bigint order by b.bin) filter (where b.part = 'wait') as wait
    from bins b
    where b.tasks <> 0
    group by b.step, b.bucket, b.status
)
insert into pgqueue.task_rollups (
    step, bucket, queue_name, task_type, status, finished, kept, run_us, wait_us, run_histogram, wait_histogram
)
select
    'all_' || s.step, s.bucket, '', '', s.status, s.finished, 0, s.run_us, s.wait_us, coalesce(h.run, '{}'), coalesce(h.wait, '{}')
from summed s
left join histograms h on h.step = s.step and h.bucket = s.bucket and h.status = s.status;
