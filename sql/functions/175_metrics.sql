-- Figures for Prometheus. Counters come from the rollups, so they live as long as the database; what was told
-- once is never told smaller.

-- The bounds of histograms in microseconds, as exponents of 1.1: every eighth bin of the rollups, 1 ms to a day.
create or replace function pgqueue._metric_bounds() returns int[]
language sql immutable parallel safe
as $$ select array(select generate_series(72, 264, 8)) $$;

comment on function pgqueue._metric_bounds() is 'The bins that bound the buckets of histograms.';

-- Cumulative, as Prometheus wants them; the last one counts all.
create or replace function pgqueue._metric_buckets(p_bins int[], p_tasks bigint[]) returns bigint[]
language sql immutable parallel safe
as $$
    select array_agg(b.tasks order by b.bound)
    from (
        select u.bound, coalesce(sum(t.tasks) filter (where t.bin <= u.bound), 0)::bigint as tasks
        from unnest(pgqueue._metric_bounds() || 2147483647) as u (bound)
        left join unnest(p_bins, p_tasks) as t (bin, tasks) on true
        group by u.bound
    ) b
$$;

comment on function pgqueue._metric_buckets(int[], bigint[]) is 'Counts by bin as counts up to each bound.';

create or replace function pgqueue._highest(p_one bigint[], p_other bigint[]) returns bigint[]
language sql immutable parallel safe
as $$
    select coalesce(array_agg(greatest(h.one, h.other) order by h.nr), '{}') from unnest(p_one, p_other) with ordinality as h (one, other, nr)
$$;

comment on function pgqueue._highest(bigint[], bigint[]) is 'The higher one of each pair.';

create or replace function pgqueue._count_finished() returns void
language plpgsql volatile
set jit = off
as $$
begin
    with ended as materialized (
        select e.* from pgqueue._ended('-infinity', 'infinity', 'day') e
    ),
    bins as (
        select b.queue_name, b.task_type, b.status, b.part, array_agg(b.bin) as bins, array_agg(b.tasks) as tasks
        from (
            select
                e.queue_name, e.task_type, e.status, h.part, (h.entry & 511)::int as bin,
                sum(h.entry >> 9)::bigint as tasks
            from ended e
            cross join lateral (
                select 'run', u.entry from unnest(e.run_histogram) as u (entry)
                union all
                select 'wait', u.entry from unnest(e.wait_histogram) as u (entry)
            ) as h (part, entry)
            group by 1, 2, 3, 4, 5
        ) b
        group by b.queue_name, b.task_type, b.status, b.part
    ),
    summed as (
        select
            e.queue_name, e.task_type, e.status, sum(e.finished)::bigint as tasks, sum(e.run_us) as run_us, sum(e.wait_us) as wait_us
        from ended e
        group by e.queue_name, e.task_type, e.status
    ),
    live as (
        select t.queue_name, t.task_type, count(*) as tasks from pgqueue.tasks t group by t.queue_name, t.task_type
    )
    insert into pgqueue.metric_totals as m (queue_name, task_type, outcome, tasks, run_us, wait_us, run_buckets, wait_buckets)
    select
        s.queue_name, s.task_type, s.status, s.tasks, s.run_us, s.wait_us,
        pgqueue._metric_buckets(r.bins, r.tasks), pgqueue._metric_buckets(w.bins, w.tasks)
    from summed s
    left join bins r on (r.queue_name, r.task_type, r.status, r.part) = (s.queue_name, s.task_type, s.status, 'run')
    left join bins w on (w.queue_name, w.task_type, w.status, w.part) = (s.queue_name, s.task_type, s.status, 'wait')
    union all
    select c.queue_name, c.task_type, 'submitted', sum(c.tasks)::bigint, 0, 0, '{}', '{}'
    from (
        select s.queue_name, s.task_type, s.tasks from summed s
        union all
        select l.queue_name, l.task_type, l.tasks from live l
    ) c
    group by c.queue_name, c.task_type
    on conflict (queue_name, task_type, outcome) do update set
        tasks = greatest(m.tasks, excluded.tasks),
        run_us = greatest(m.run_us, excluded.run_us),
        wait_us = greatest(m.wait_us, excluded.wait_us),
        run_buckets = pgqueue._highest(m.run_buckets, excluded.run_buckets),
        wait_buckets = pgqueue._highest(m.wait_buckets, excluded.wait_buckets)
    where m.tasks < excluded.tasks or m.run_us < excluded.run_us or m.wait_us < excluded.wait_us;
end $$;

comment on function pgqueue._count_finished() is 'Brings metric_totals up to now.';

-- Up to the mark of the statistics: before it nothing ends any more.
create or replace function pgqueue._count_attempts() returns void
language plpgsql volatile
set jit = off
as $$
begin
    update pgqueue.metric_attempts m
    set counted_before = c.up_to, retries = m.retries + c.retries, rescued = m.rescued + c.rescued
    from (
        select
            s.folded_before as up_to, count(e.task_id) filter (where e.attempt > 1) as retries,
            count(e.task_id) filter (where e.outcome = 'lost') as rescued
        from pgqueue.statistics_state s
        cross join pgqueue.metric_attempts o
        left join pgqueue.executions e on e.finished_at >= o.counted_before and e.finished_at < s.folded_before
        group by s.folded_before
    ) c
    where m.counted_before < c.up_to;
end $$;

comment on function pgqueue._count_attempts() is 'Brings metric_attempts up to the mark of the statistics.';

-- One at a time brings the counters up to now; who comes meanwhile is told what they were.
create or replace function pgqueue.metrics() returns jsonb
language plpgsql volatile security definer set search_path = '' set jit = off
as $$
begin
    if pg_try_advisory_xact_lock(hashtextextended('pgqueue.metrics', 0)) then
        perform pgqueue._count_finished();
        perform pgqueue._count_attempts();
    end if;
    return jsonb_build_object(
        'bounds', array(select 1.1::double precision ^ b.bin / 1000000 from unnest(pgqueue._metric_bounds()) as b (bin)),
        'totals', (select coalesce(jsonb_agg(to_jsonb(m) order by m.queue_name, m.task_type, m.outcome), '[]') from pgqueue.metric_totals m),
        'retries', (select m.retries from pgqueue.metric_attempts m),
        'rescued', (select m.rescued from pgqueue.metric_attempts m),
        'queues', (
            select coalesce(jsonb_agg(to_jsonb(s) order by s.queue_name), '[]')
            from pgqueue.queues q
            cross join lateral pgqueue.queue_stats(q.name) s
        ),
        'slots_busy', (select coalesce(sum(w.running), 0) from pgqueue.worker_overview w where w.state in ('alive', 'stopping', 'paused')),
        'slots', (
            select coalesce(sum((c.value #>> '{}')::int), 0)
            from pgqueue.worker_overview w
            cross join lateral jsonb_each(w.concurrency) c
            where w.state in ('alive', 'stopping') and jsonb_typeof(c.value) = 'number'
        ),
        'schedule_lag', (select s.lag from pgqueue.scheduler_stats() s),
        'dead_tuples', (
            select coalesce(jsonb_object_agg(t.relname, t.n_dead_tup), '{}')
            from pg_catalog.pg_stat_user_tables t
            join pg_catalog.pg_class c on c.oid = t.relid
            where t.schemaname = 'pgqueue' and not c.relispartition
        ),
        'oldest_transaction', (
            select coalesce(extract(epoch from max(clock_timestamp() - a.xact_start)), 0)
            from pg_catalog.pg_stat_activity a
            where a.datname = current_database() and a.pid <> pg_backend_pid()
        )
    );
end $$;

comment on function pgqueue.metrics() is 'All figures for Prometheus, as one object.';
