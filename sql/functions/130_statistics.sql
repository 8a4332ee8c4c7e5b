-- How much, how fast, how often it fails.

create or replace function pgqueue.queue_stats(p_name text)
returns table (
    queue_name text, pending bigint, scheduled bigint, blocked bigint, running bigint, completed bigint, failed bigint,
    cancelled bigint, queue_size bigint, queue_capacity int, concurrency int, paused boolean, oldest_pending_age_s double precision
)
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_queue pgqueue.queues;
begin
    select q.* into v_queue from pgqueue.queues q where q.name = p_name;
    if not found then
        perform pgqueue._queue_not_found(p_name);
    end if;
    return query
    with live as (
        select
            count(*) filter (where t.status = 'pending' and t.run_at <= v_now) as pending,
            count(*) filter (where t.status = 'pending' and t.run_at > v_now) as scheduled,
            count(*) filter (where t.status = 'blocked') as blocked,
            count(*) filter (where t.status = 'running') as running,
            min(t.run_at) filter (where t.status = 'pending' and t.run_at <= v_now) as oldest
        from pgqueue.tasks t
        where t.queue_name = p_name
    ),
    ended as (
        select
            count(*) filter (where f.status = 'completed') as completed,
            count(*) filter (where f.status = 'failed') as failed,
            count(*) filter (where f.status = 'cancelled') as cancelled
        from pgqueue.finished_tasks f
        where f.queue_name = p_name
    )
    select
        p_name, live.pending, live.scheduled, live.blocked, live.running, ended.completed, ended.failed, ended.cancelled,
        live.pending + live.scheduled + live.blocked, v_queue.capacity, v_queue.concurrency, v_queue.paused_at is not null,
        coalesce(extract(epoch from v_now - live.oldest), 0)::double precision
    from live cross join ended;
end $$;

comment on function pgqueue.queue_stats(text) is 'A queue now (pending, scheduled, blocked, running) and what of it is kept as finished.';

-- A window counts what finished in it; pending and running are now. Durations are those of the last attempt.
create or replace function pgqueue.task_statistics(p_from timestamptz, p_to timestamptz)
returns table (
    total bigint, completed bigint, failed bigint, cancelled bigint, pending bigint, running bigint, success_rate double precision,
    avg_duration_ms double precision, p50_duration_ms double precision, p95_duration_ms double precision, p99_duration_ms double precision
)
language plpgsql stable security definer set search_path = ''
as $$
begin
    if p_from > p_to then
        raise exception using errcode = 'QU001',
            message = format('a window cannot end (%s) before it starts (%s)', p_to, p_from),
            detail = jsonb_build_object('from', p_from, 'to', p_to),
            hint = 'Give the earlier moment first.';
    end if;
    return query
    with ended as (
        select f.status, extract(epoch from f.finished_at - f.started_at)::double precision * 1000 as ms
        from pgqueue.finished_tasks f
        where f.finished_at >= p_from and f.finished_at < p_to
    ),
    counted as (
        select
            count(*) filter (where e.status = 'completed') as completed,
            count(*) filter (where e.status = 'failed') as failed,
            count(*) filter (where e.status = 'cancelled') as cancelled,
            count(*) as ended,
            avg(e.ms) as mean,
            percentile_cont(array[0.5, 0.95, 0.99]) within group (order by e.ms) as p
        from ended e
    ),
    live as (
        select count(*) filter (where t.status <> 'running') as pending, count(*) filter (where t.status = 'running') as running
        from pgqueue.tasks t
    )
    select
        c.ended + l.pending + l.running, c.completed, c.failed, c.cancelled, l.pending, l.running,
        coalesce(100.0 * c.completed / nullif(c.ended, 0), 0)::double precision,
        coalesce(c.mean, 0), coalesce(c.p[1], 0), coalesce(c.p[2], 0), coalesce(c.p[3], 0)
    from counted c cross join live l;
end $$;

comment on function pgqueue.task_statistics(timestamptz, timestamptz) is
'Counts, success rate (percent of the ended) and durations of what finished from p_from up to before p_to.';
