-- A tick falls due. A scheduler takes the schedules that are due, works out which ticks the expression
-- names, and proposes; what follows decides. Any number of schedulers may do so at once.

-- Schedules that are due or not planned yet, locked so that schedulers share the work. The lock saves
-- work and no more: the compare-and-swap of fire_schedules and the key of the ticks keep them right. For one
-- that is paused, time stands still: nothing is due, and its next tick is the first that it skips.
create or replace function pgqueue.due_schedules(p_limit int default 100, p_name text default null)
returns table (
    id bigint, revision int, cron_expr text, time_zone text, missed text, catch_up_window int, starts_at timestamptz, ends_at timestamptz,
    next_run_at timestamptz, since timestamptz, now timestamptz
)
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_ids bigint[] := array(select s.id from pgqueue.schedules s where s.name = p_name and s.planned_at is null);
begin
    if p_name is null then
        -- A scheduler that is stopped in the middle must not keep its schedules from the others.
        perform set_config('idle_in_transaction_session_timeout', '10s', true);
        v_ids := array(
            select s.id
            from pgqueue.schedules s
            where s.is_active and s.planned_at is not null and s.next_run_at <= v_now
            order by s.next_run_at
            limit p_limit
            for update skip locked
        ) || array(
            select s.id from pgqueue.schedules s where s.planned_at is null order by s.id limit p_limit for update skip locked
        );
    end if;
    return query
    select
        s.id, s.revision, s.cron_expr::text, s.time_zone, s.missed, s.catch_up_window, s.starts_at::timestamptz, s.ends_at::timestamptz,
        s.next_run_at, s.updated_at, case when s.is_active then v_now else s.updated_at end
    from pgqueue.schedules s
    where s.id = any(v_ids) and (s.is_active or s.planned_at is null)
    order by s.id;
end $$;

comment on function pgqueue.due_schedules(int, text) is
'Schedules whose tick is due or whose next is not known, or the one that is named where its next is not known; next_run_at is to be sent back as it is.';

-- What a scheduler asks before it sleeps; costs the same however many schedules there are.
create or replace function pgqueue.schedules_due_in() returns table (due_in double precision, has_queued boolean)
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_next timestamptz;
begin
    has_queued := exists (select from pgqueue.schedule_ticks k where k.state = 'queued');
    if exists (select from pgqueue.schedules s where s.planned_at is null) then
        due_in := 0;
    else
        select s.next_run_at into v_next
        from pgqueue.schedules s
        where s.is_active and s.planned_at is not null and s.next_run_at is not null
        order by s.next_run_at
        limit 1;
        due_in := case when v_next is not null then greatest(extract(epoch from v_next - v_now), 0) end;
    end if;
    return next;
end $$;

comment on function pgqueue.schedules_due_in() is
'Seconds until a schedule needs a scheduler (null where none will), and whether ticks wait for an earlier task.';

-- A plan: id, revision and next_run_at as they were given; ticks to fire now; skipped_from and
-- skipped_until, a run of ticks to pass over (both or neither), why; next, the tick after all these (null:
-- there is none); error, why it cannot be planned. Returns how many ticks were fired.
-- Lock order: schedules by id, then their ticks, then the tasks.
create or replace function pgqueue.fire_schedules(p_plans jsonb) returns int
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_fired int := 0;
    v_schedule pgqueue.schedules;
    v_tick timestamptz;
    g record;
begin
    for g in
        select p.*
        from jsonb_to_recordset(p_plans) as p (
            id bigint, revision int, next_run_at timestamptz, ticks timestamptz[],
            skipped_from timestamptz, skipped_until timestamptz, why text, next timestamptz, error text
        )
        order by p.id
    loop
        update pgqueue.schedules s
        set next_run_at = g.next, planned_at = v_now, error = left(g.error, 1000)
        where s.id = g.id and s.revision = g.revision and s.next_run_at is not distinct from g.next_run_at
        and (s.is_active or coalesce(g.ticks, '{}') = '{}')
        and not v_now < any(coalesce(g.ticks, '{}'))
        returning s.* into v_schedule;
        continue when not found;
        if g.skipped_from is not null then
            insert into pgqueue.schedule_ticks (schedule_id, tick, state, reason, until, decided_at)
            values (g.id, g.skipped_from, 'skipped', left(g.why, 1000), g.skipped_until, v_now)
            on conflict do nothing;
        end if;
        foreach v_tick in array coalesce(g.ticks, '{}') loop
            v_fired := v_fired
                + (pgqueue._fire_tick(v_schedule, v_tick, case when v_tick < v_now - interval '1 minute' then 'catch_up' else 'scheduled' end) = 'fired')::int;
        end loop;
    end loop;
    return v_fired;
end $$;

comment on function pgqueue.fire_schedules(jsonb) is
'Fires what schedulers worked out, where nobody was quicker and nothing was changed meanwhile; returns how many ticks.';

-- The primary key lets one caller have the tick; a backfill may also take one that was skipped. Returns
-- what became of it, null where it was dealt with before. The caller has locked the schedule.
create or replace function pgqueue._fire_tick(p_schedule pgqueue.schedules, p_tick timestamptz, p_kind text) returns text
language plpgsql volatile
as $$
begin
    insert into pgqueue.schedule_ticks as k (schedule_id, tick, kind, state, decided_at)
    values (p_schedule.id, p_tick, p_kind, 'queued', pgqueue._now())
    on conflict (schedule_id, tick) do update
    set kind = 'backfill', state = 'queued', reason = null, until = null, decided_at = excluded.decided_at
    where p_kind = 'backfill' and k.state = 'skipped';
    if not found then
        return null;
    end if;
    return pgqueue._decide_tick(p_schedule, p_tick, p_kind);
end $$;

comment on function pgqueue._fire_tick(pgqueue.schedules, timestamptz, text) is 'Enters a tick and decides it; null where it is there already.';

-- Fires a queued tick, skips it, or lets it wait.
create or replace function pgqueue._decide_tick(p_schedule pgqueue.schedules, p_tick timestamptz, p_kind text) returns text
language plpgsql volatile
as $$
declare
    v_capacity int;
    v_runs bigint;
    v_state text;
begin
    if p_kind = 'manual' then
        perform pgqueue._submit_tick(p_schedule, p_tick, p_kind);
        return 'fired';
    end if;
    if p_schedule.max_runs is not null then
        select s.run_count into v_runs from pgqueue.schedules s where s.id = p_schedule.id;
        if v_runs >= p_schedule.max_runs then
            return pgqueue._skip_tick(p_schedule.id, p_tick, format('it ran %s times, as often as it may', p_schedule.max_runs));
        end if;
    end if;
    if p_schedule.overlap <> 'allow' then
        v_state := pgqueue._overlap(p_schedule, p_tick, p_kind);
        if v_state <> 'free' then
            return v_state;
        end if;
    end if;
    select q.capacity into v_capacity from pgqueue.queues q where q.name = p_schedule.queue_name;
    if v_capacity is not null then
        if pgqueue._count_waiting(p_schedule.queue_name, least(v_capacity, 9999) + 1) >= v_capacity then
            return pgqueue._skip_tick(p_schedule.id, p_tick, format('queue %L was full', p_schedule.queue_name));
        end if;
    end if;
    perform pgqueue._submit_tick(p_schedule, p_tick, p_kind);
    return 'fired';
end $$;

comment on function pgqueue._decide_tick(pgqueue.schedules, timestamptz, text) is 'What becomes of a queued tick now: fired, skipped, or still queued.';

create or replace function pgqueue._submit_tick(p_schedule pgqueue.schedules, p_tick timestamptz, p_kind text) returns void
language plpgsql volatile
as $$
declare
    v_share double precision := (hashtextextended(p_schedule.name || extract(epoch from p_tick), 0) & 1048575) / 1048576.0;
    v_now timestamptz := pgqueue._now();
    v_task_id bigint;
begin
    insert into pgqueue.tasks (
        task_type, payload, queue_name, priority, max_retries, timeout, run_at, user_id, project_id, metadata, created_at
    )
    values (
        p_schedule.task_type, p_schedule.payload, p_schedule.queue_name, p_schedule.priority, p_schedule.max_retries, p_schedule.timeout,
        greatest(p_tick + p_schedule.jitter * v_share * interval '1 second', v_now), p_schedule.user_id, p_schedule.project_id,
        coalesce(p_schedule.metadata, '{}') || jsonb_build_object(
            'schedule', p_schedule.name, 'tick', to_char(p_tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        ),
        v_now
    )
    returning id into v_task_id;
    update pgqueue.schedule_ticks k
    set state = 'fired', reason = null, task_id = v_task_id, decided_at = v_now
    where k.schedule_id = p_schedule.id and k.tick = p_tick;
    update pgqueue.schedules s
    set run_count = s.run_count + (p_kind <> 'manual')::int,
        last_run_at = greatest(s.last_run_at, p_tick),
        last_task_id = case when p_kind = 'backfill' then s.last_task_id else v_task_id end,
        next_run_at = case when s.run_count + (p_kind <> 'manual')::int < s.max_runs or s.max_runs is null then s.next_run_at end
    where s.id = p_schedule.id;
end $$;

comment on function pgqueue._submit_tick(pgqueue.schedules, timestamptz, text) is 'Submits the task of a tick and notes it.';

create or replace function pgqueue._skip_tick(p_schedule_id bigint, p_tick timestamptz, p_reason text) returns text
language sql volatile
as $$
    update pgqueue.schedule_ticks k
    set state = 'skipped', reason = p_reason, decided_at = pgqueue._now()
    where k.schedule_id = p_schedule_id and k.tick = p_tick
    returning 'skipped'
$$;

comment on function pgqueue._skip_tick(bigint, timestamptz, text) is 'Passes over a tick, and says why.';

-- Live tasks of a schedule, among the last fifty that it submitted.
create or replace function pgqueue._live_tasks_of(p_schedule_id bigint) returns bigint[]
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
begin
    return array(
        select t.id
        from (
            select k.task_id
            from pgqueue.schedule_ticks k
            where k.schedule_id = p_schedule_id and k.task_id is not null
            order by k.task_id desc
            limit 50
        ) recent
        join pgqueue.tasks t on t.id = recent.task_id
        order by t.id
    );
end $$;

comment on function pgqueue._live_tasks_of(bigint) is 'The tasks of a schedule that have not ended.';

-- May a tick start, seen from the tasks and ticks before it? free, queued or skipped, which is noted. A
-- backfill asks for these very ticks: it waits where others would be skipped or cancel what is before them.
create or replace function pgqueue._overlap(p_schedule pgqueue.schedules, p_tick timestamptz, p_kind text) returns text
language plpgsql volatile
as $$
declare
    v_live bigint[] := pgqueue._live_tasks_of(p_schedule.id);
    v_waiting bigint;
begin
    if p_schedule.overlap = 'cancel_previous' and p_kind <> 'backfill' then
        perform pgqueue._skip_tick(k.schedule_id, k.tick, 'a later tick took its place')
        from pgqueue.schedule_ticks k
        where k.schedule_id = p_schedule.id and k.state = 'queued' and k.tick < p_tick;
        perform pgqueue.cancel_task(i.id, format('schedule %s: a later tick takes its place', p_schedule.name)) from unnest(v_live) as i (id);
        v_live := pgqueue._live_tasks_of(p_schedule.id);
    end if;
    if v_live <> '{}' and p_schedule.overlap = 'skip' and p_kind <> 'backfill' then
        return pgqueue._skip_tick(p_schedule.id, p_tick, format('task %s of an earlier tick was live', v_live[1]));
    end if;
    select count(*) into v_waiting
    from pgqueue.schedule_ticks k
    where k.schedule_id = p_schedule.id and k.state = 'queued' and k.tick < p_tick;
    if v_waiting >= 1000 then
        return pgqueue._skip_tick(p_schedule.id, p_tick, format('%s ticks wait already', v_waiting));
    elsif v_live = '{}' and v_waiting = 0 then
        return 'free';
    end if;
    update pgqueue.schedule_ticks k
    set reason = coalesce(format('waits for the end of task %s', v_live[1]), 'waits for the tick before it')
    where k.schedule_id = p_schedule.id and k.tick = p_tick and k.reason is null;
    return 'queued';
end $$;

comment on function pgqueue._overlap(pgqueue.schedules, timestamptz, text) is 'What overlap says of a tick: free, queued or skipped.';

-- Ticks that waited for a task: the oldest of each schedule is decided anew.
create or replace function pgqueue.release_ticks() returns bigint
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_id bigint;
    v_left bigint := 0;
begin
    for v_id in
        select s.id
        from pgqueue.schedules s
        where s.is_active and exists (select from pgqueue.schedule_ticks k where k.schedule_id = s.id and k.state = 'queued')
        order by s.id
        limit 1000
        for update of s skip locked
    loop
        perform pgqueue._decide_tick(s, k.tick, k.kind)
        from pgqueue.schedules s
        cross join lateral (
            select w.tick, w.kind
            from pgqueue.schedule_ticks w
            where w.schedule_id = s.id and w.state = 'queued'
            order by w.tick
            limit 1
        ) k
        where s.id = v_id;
        v_left := v_left + (select count(*) from pgqueue.schedule_ticks k where k.schedule_id = v_id and k.state = 'queued');
    end loop;
    return v_left;
end $$;

comment on function pgqueue.release_ticks() is 'Fires ticks whose earlier task has ended; returns how many still wait.';

create or replace function pgqueue.run_schedule_now(p_name text) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_schedule pgqueue.schedules;
    v_tick timestamptz := pgqueue._now();
begin
    select s.* into v_schedule from pgqueue.schedules s where s.name = p_name for update;
    if not found then
        perform pgqueue._schedule_not_found(p_name);
    end if;
    while pgqueue._fire_tick(v_schedule, v_tick, 'manual') is null loop
        v_tick := v_tick + interval '1 microsecond';
    end loop;
    return (select k.task_id from pgqueue.schedule_ticks k where k.schedule_id = v_schedule.id and k.tick = v_tick);
end $$;

comment on function pgqueue.run_schedule_now(text) is
'Submits the task of a schedule at once, also where it is paused or an earlier one is live; returns the task''s id.';

-- A row that stands for a run of skipped ticks ends before p_from, and goes on at p_until: what lies between
-- gets rows of its own. The caller has locked the schedule.
create or replace function pgqueue._split_skipped(p_schedule_id bigint, p_from timestamptz, p_until timestamptz) returns void
language plpgsql volatile
as $$
begin
    insert into pgqueue.schedule_ticks (schedule_id, tick, state, reason, until, decided_at)
    select k.schedule_id, p_until, k.state, k.reason, k.until, k.decided_at
    from pgqueue.schedule_ticks k
    where k.schedule_id = p_schedule_id and k.tick < p_until and k.until > p_until
    on conflict do nothing;
    update pgqueue.schedule_ticks k
    set until = case when k.tick < p_from then p_from else p_until end
    where k.schedule_id = p_schedule_id and k.tick < p_until and k.until > case when k.tick < p_from then p_from else p_until end;
end $$;

comment on function pgqueue._split_skipped(bigint, timestamptz, timestamptz) is 'Takes a range out of those ticks that one row stands for.';

drop function if exists pgqueue.backfill_schedule(text, timestamptz[]);

-- p_following: the tick after them, where p_ticks are all ticks of a range. A dry run changes nothing, and
-- says of each known or due.
create or replace function pgqueue.backfill_schedule(
    p_name text, p_ticks timestamptz[], p_following timestamptz default null, p_dry_run boolean default false
) returns table (tick timestamptz, state text, task_id bigint)
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_schedule pgqueue.schedules;
    v_last timestamptz := (select max(t) from unnest(p_ticks) t);
begin
    select s.* into v_schedule from pgqueue.schedules s where s.name = p_name for update;
    if not found then
        perform pgqueue._schedule_not_found(p_name);
    end if;
    if v_last > pgqueue._now() then
        raise exception using errcode = 'QU001',
            message = format('%s is not over yet and cannot be filled in', v_last),
            detail = jsonb_build_object('tick', v_last),
            hint = 'Choose a range that ends in the past.';
    end if;
    if p_following > v_last and not p_dry_run then
        perform pgqueue._split_skipped(v_schedule.id, (select min(t) from unnest(p_ticks) t), p_following);
    end if;
    foreach tick in array p_ticks loop
        if p_dry_run then
            state := case
                when exists (
                    select from pgqueue.schedule_ticks k
                    where k.schedule_id = v_schedule.id and k.tick = backfill_schedule.tick and k.state <> 'skipped'
                ) then 'known'
                else 'due'
            end;
        else
            if p_following is null then
                perform pgqueue._split_skipped(v_schedule.id, tick, tick + interval '1 microsecond');
            end if;
            state := coalesce(pgqueue._fire_tick(v_schedule, tick, 'backfill'), 'known');
        end if;
        task_id := (select k.task_id from pgqueue.schedule_ticks k where k.schedule_id = v_schedule.id and k.tick = backfill_schedule.tick);
        return next;
    end loop;
end $$;

comment on function pgqueue.backfill_schedule(text, timestamptz[], timestamptz, boolean) is
'Fires past ticks that were never fired; says of each fired, queued, skipped, or known where it was dealt with before.';

-- History is kept for a month; what waits is no history.
create or replace function pgqueue._forget_ticks() returns void
language sql volatile
as $$
    delete from pgqueue.schedule_ticks k
    where k.ctid = any(array(
        select old.ctid
        from pgqueue.schedule_ticks old
        where old.decided_at < pgqueue._now() - interval '30 days' and old.state <> 'queued'
        order by old.decided_at
        limit 10000
    ))
$$;

comment on function pgqueue._forget_ticks() is 'Removes what was decided over 30 days ago, a part at a time.';
