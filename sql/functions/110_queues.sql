-- Queues: made, changed, paused and resumed while workers run.

create or replace function pgqueue._queue_changed(p_name text) returns void
language plpgsql volatile
as $$
begin
    perform pgqueue._notify('pgqueue_control', jsonb_build_object('kind', 'queue', 'queue_name', p_name)::text);
    perform pgqueue._wake(p_name);
end $$;

comment on function pgqueue._queue_changed(text) is 'Tells the workers that a queue has new settings.';

drop function if exists pgqueue.create_queue(text, int, int, int);

-- A parameter left out keeps what the queue has; a capacity of 0 takes the limit away. How long history is
-- kept cannot be set back to the workers' settings, but to the same value.
create or replace function pgqueue.create_queue(
    p_name text, p_concurrency int default null, p_capacity int default null, p_max_crashes int default null,
    p_keep_completed interval default null, p_keep_failed interval default null, p_keep_cancelled interval default null
) returns text
language plpgsql volatile security definer set search_path = ''
as $$
begin
    insert into pgqueue.queues as q (name, concurrency, capacity, max_crashes, keep_completed, keep_failed, keep_cancelled)
    values (
        p_name, coalesce(p_concurrency, 5), nullif(p_capacity, 0), coalesce(p_max_crashes, 3), p_keep_completed, p_keep_failed, p_keep_cancelled
    )
    on conflict (name) do update set
        concurrency = coalesce(p_concurrency, q.concurrency),
        capacity = case when p_capacity is null then q.capacity else nullif(p_capacity, 0) end,
        max_crashes = coalesce(p_max_crashes, q.max_crashes),
        keep_completed = coalesce(p_keep_completed, q.keep_completed),
        keep_failed = coalesce(p_keep_failed, q.keep_failed),
        keep_cancelled = coalesce(p_keep_cancelled, q.keep_cancelled),
        updated_at = pgqueue._now()
    where (
        coalesce(p_concurrency, q.concurrency), coalesce(p_capacity, q.capacity, 0), coalesce(p_max_crashes, q.max_crashes),
        coalesce(p_keep_completed, q.keep_completed), coalesce(p_keep_failed, q.keep_failed), coalesce(p_keep_cancelled, q.keep_cancelled)
    ) is distinct from (q.concurrency, coalesce(q.capacity, 0), q.max_crashes, q.keep_completed, q.keep_failed, q.keep_cancelled);
    if found then
        perform pgqueue._queue_changed(p_name);
        if num_nonnulls(p_keep_completed, p_keep_failed, p_keep_cancelled) > 0 then
            perform pgqueue._forget_retention();
        end if;
    end if;
    return p_name;
end $$;

comment on function pgqueue.create_queue(text, int, int, int, interval, interval, interval) is
'Makes a queue or changes the settings that are given; returns its name.';

create or replace function pgqueue.pause_queue(p_name text, p_reason text default null) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.queues q
    set paused_at = coalesce(q.paused_at, pgqueue._now()), pause_reason = coalesce(p_reason, q.pause_reason), updated_at = pgqueue._now()
    where q.name = p_name;
    if not found then
        perform pgqueue._queue_not_found(p_name);
    end if;
    perform pgqueue._queue_changed(p_name);
end $$;

comment on function pgqueue.pause_queue(text, text) is 'Nothing more is claimed from this queue; what runs goes on.';

create or replace function pgqueue.resume_queue(p_name text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.queues q set paused_at = null, pause_reason = null, updated_at = pgqueue._now() where q.name = p_name;
    if not found then
        perform pgqueue._queue_not_found(p_name);
    end if;
    perform pgqueue._queue_changed(p_name);
end $$;

comment on function pgqueue.resume_queue(text) is 'A paused queue goes on.';

-- Its waiting tasks are cancelled first; running ones keep it alive. A transaction that submitted to it and
-- is still open is not seen: should it commit, maintenance makes the queue again.
create or replace function pgqueue.delete_queue(p_name text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_live bigint;
begin
    perform from pgqueue.queues q where q.name = p_name for update;
    if not found then
        perform pgqueue._queue_not_found(p_name);
    end if;
    select count(*) into v_live from (select from pgqueue.tasks t where t.queue_name = p_name limit 10000) live;
    if v_live > 0 then
        raise exception using errcode = 'QU201',
            message = format('queue %L has live tasks and cannot be deleted', p_name),
            detail = jsonb_build_object('queue_name', p_name, 'live', v_live),
            hint = 'Cancel its tasks or let them end first.';
    end if;
    if exists (select from pgqueue.schedules s where s.queue_name = p_name) then
        raise exception using errcode = 'QU201',
            message = format('schedules submit to queue %L: it cannot be deleted', p_name),
            detail = jsonb_build_object(
                'queue_name', p_name,
                'schedules', (select jsonb_agg(u.name) from (select s.name from pgqueue.schedules s where s.queue_name = p_name limit 10) u)
            ),
            hint = 'Delete these schedules, or let them submit to another queue.';
    end if;
    delete from pgqueue.lanes l where l.queue_name = p_name;
    delete from pgqueue.lane_floors f where f.queue_name = p_name;
    delete from pgqueue.queues q where q.name = p_name;
    perform pgqueue._forget_retention();
end $$;

comment on function pgqueue.delete_queue(text) is 'Deletes a queue that has no live tasks and no schedules.';
