-- Schedules: made, changed, paused, resumed. What the expression means is worked out by a scheduler
-- (any worker is one), which proposes; fire_schedules decides.

create or replace function pgqueue._schedule_not_found(p_name text) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU103',
        message = format('there is no schedule %L', p_name),
        detail = jsonb_build_object('name', p_name),
        hint = 'pgqueue schedule list, or the view pgqueue.schedule_overview, shows those that there are.';
end $$;

comment on function pgqueue._schedule_not_found(text) is 'Raises QU103.';

-- Whoever inserts or changes a row gets the same care: what was planned before no longer holds, and what was
-- skipped while it was paused is on record. A paused schedule has a next tick as well: the first that it skips.
create or replace function pgqueue._schedule_changed() returns trigger
language plpgsql security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_replan boolean := false;
begin
    if not exists (select from pgqueue.queues q where q.name = new.queue_name) then
        perform pgqueue._queue_not_found(new.queue_name);
    end if;
    new.updated_at := v_now;
    if tg_op = 'INSERT' then
        new.paused_at := case when not new.is_active then v_now end;
        return new;
    end if;
    new.revision := old.revision + 1;
    v_replan := (new.cron_expr, new.time_zone, new.starts_at, new.ends_at, new.max_runs)
        is distinct from (old.cron_expr, old.time_zone, old.starts_at, old.ends_at, old.max_runs);
    if not old.is_active and (new.is_active or v_replan) then
        insert into pgqueue.schedule_ticks (schedule_id, tick, state, reason, until, decided_at)
        select old.id, old.next_run_at, 'skipped', 'paused' || coalesce(': ' || old.pause_reason, ''), v_now, v_now
        where old.next_run_at < v_now
        on conflict do nothing;
    end if;
    if new.is_active and not old.is_active then
        new.paused_at := null;
        new.pause_reason := null;
    elsif old.is_active and not new.is_active then
        new.paused_at := v_now;
    end if;
    if v_replan or (new.is_active and not old.is_active) or old.error is not null then
        new.planned_at := null;
        new.next_run_at := null;
        new.error := null;
    end if;
    return new;
end $$;

comment on function pgqueue._schedule_changed() is 'Checks the queue, and lets a changed schedule be planned anew.';

create or replace trigger schedules_changed before insert or update of
name, task_type, cron_expr, time_zone, queue_name, payload, priority, max_retries, timeout, user_id, project_id, metadata,
missed, catch_up_window, overlap, jitter, starts_at, ends_at, max_runs, is_active
on pgqueue.schedules
for each row execute function pgqueue._schedule_changed();

create or replace function pgqueue._schedules_announced() returns trigger
language plpgsql security definer set search_path = ''
as $$
begin
    perform pgqueue._notify('pgqueue_control', '{"kind": "schedules"}');
    return null;
end $$;

comment on function pgqueue._schedules_announced() is 'Wakes the schedulers.';

create or replace trigger schedules_announced after insert or update of
cron_expr, time_zone, starts_at, ends_at, max_runs, is_active
on pgqueue.schedules
for each statement execute function pgqueue._schedules_announced();

create or replace function pgqueue.create_schedule(
    p_name text,
    p_task_type text,
    p_cron_expr text,
    p_payload jsonb default '{}',
    p_queue_name text default 'default',
    p_time_zone text default 'UTC',
    p_priority int default 5,
    p_max_retries int default 3,
    p_timeout int default null,
    p_user_id text default null,
    p_project_id text default null,
    p_metadata jsonb default null,
    p_missed text default 'once',
    p_catch_up_window int default 86400,
    p_overlap text default 'allow',
    p_jitter int default 0,
    p_starts_at timestamptz default null,
    p_ends_at timestamptz default null,
    p_max_runs int default null,
    p_is_active boolean default true,
    p_on_conflict text default 'raise'
) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_id bigint;
begin
    perform pgqueue._check_submit(p_priority, p_on_conflict);
    insert into pgqueue.schedules as s (
        name, task_type, cron_expr, payload, queue_name, time_zone, priority, max_retries, timeout, user_id, project_id, metadata,
        missed, catch_up_window, overlap, jitter, starts_at, ends_at, max_runs, is_active, created_at
    )
    values (
        p_name, p_task_type, p_cron_expr, coalesce(p_payload, '{}'), p_queue_name, p_time_zone, p_priority, p_max_retries, p_timeout,
        p_user_id, p_project_id, p_metadata, p_missed, p_catch_up_window, p_overlap, p_jitter, p_starts_at, p_ends_at, p_max_runs,
        p_is_active, v_now
    )
    on conflict (name) do nothing
    returning s.id into v_id;
    if v_id is not null then
        return v_id;
    elsif p_on_conflict = 'raise' then
        raise exception using errcode = 'QU202',
            message = format('there is a schedule %L already', p_name),
            detail = jsonb_build_object('name', p_name),
            hint = 'Update it, choose another name, or create it with on_conflict => replace (or return).';
    elsif p_on_conflict = 'replace' then
        update pgqueue.schedules s
        set task_type = p_task_type, cron_expr = p_cron_expr, payload = coalesce(p_payload, '{}'), queue_name = p_queue_name,
            time_zone = p_time_zone, priority = p_priority, max_retries = p_max_retries, timeout = p_timeout, user_id = p_user_id,
            project_id = p_project_id, metadata = p_metadata, missed = p_missed, catch_up_window = p_catch_up_window,
            overlap = p_overlap, jitter = p_jitter, starts_at = p_starts_at, ends_at = p_ends_at, max_runs = p_max_runs
        where s.name = p_name;
    end if;
    return (select s.id from pgqueue.schedules s where s.name = p_name);
end $$;

comment on function pgqueue.create_schedule(
    text, text, text, jsonb, text, text, int, int, int, text, text, jsonb, text, int, text, int, timestamptz, timestamptz, int, boolean, text
) is
'Makes a schedule and returns its id; where the name is taken, p_on_conflict raises QU202, returns the one that is there, or replaces its settings (not its pause).';

-- p_changes has the columns to change, as JSON. They are laid over the row as it is.
create or replace function pgqueue.update_schedule(p_name text, p_changes jsonb) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_known text[] := array[
        'name', 'task_type', 'cron_expr', 'payload', 'queue_name', 'time_zone', 'priority', 'max_retries', 'timeout', 'user_id',
        'project_id', 'metadata', 'missed', 'catch_up_window', 'overlap', 'jitter', 'starts_at', 'ends_at', 'max_runs'
    ];
    v_unknown text;
    v pgqueue.schedules;
begin
    if jsonb_typeof(p_changes) is distinct from 'object' then
        raise exception using errcode = 'QU001',
            message = format('the changes of a schedule are a JSON object, not %s', coalesce(jsonb_typeof(p_changes), 'null')),
            detail = jsonb_build_object('type', jsonb_typeof(p_changes)),
            hint = 'For instance {"cron_expr": "*/30 * * * *"}.';
    end if;
    select k into v_unknown from jsonb_object_keys(p_changes) k where not k = any(v_known) limit 1;
    if v_unknown is not null then
        raise exception using errcode = 'QU001',
            message = format('a schedule has no field %L that can be changed', v_unknown),
            detail = jsonb_build_object('field', v_unknown),
            hint = 'Those that can: ' || array_to_string(v_known, ', ') || '. Pause and resume have functions of their own.';
    end if;
    select s.* into v from pgqueue.schedules s where s.name = p_name for update;
    if not found then
        perform pgqueue._schedule_not_found(p_name);
    end if;
    v := jsonb_populate_record(v, p_changes);
    if p_changes ? 'payload' then
        v.payload := p_changes -> 'payload';
    end if;
    update pgqueue.schedules s
    set name = v.name, task_type = v.task_type, cron_expr = v.cron_expr, payload = v.payload, queue_name = v.queue_name,
        time_zone = v.time_zone, priority = v.priority, max_retries = v.max_retries, timeout = v.timeout, user_id = v.user_id,
        project_id = v.project_id, metadata = v.metadata, missed = v.missed, catch_up_window = v.catch_up_window,
        overlap = v.overlap, jitter = v.jitter, starts_at = v.starts_at, ends_at = v.ends_at, max_runs = v.max_runs
    where s.id = v.id;
    return v.id;
end $$;

comment on function pgqueue.update_schedule(text, jsonb) is 'Changes the given fields of a schedule; what is planned is worked out anew where they matter for it.';

create or replace function pgqueue.pause_schedule(p_name text, p_reason text default null) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.schedules s
    set is_active = false, pause_reason = case when s.is_active then p_reason else coalesce(p_reason, s.pause_reason) end
    where s.name = p_name;
    if not found then
        perform pgqueue._schedule_not_found(p_name);
    end if;
end $$;

comment on function pgqueue.pause_schedule(text, text) is 'Nothing more is fired until it is resumed; tasks that it submitted go on.';

create or replace function pgqueue.resume_schedule(p_name text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.schedules s set is_active = true where s.name = p_name;
    if not found then
        perform pgqueue._schedule_not_found(p_name);
    end if;
end $$;

comment on function pgqueue.resume_schedule(text) is 'Goes on with the next tick from now; those of the pause are on record as skipped.';

create or replace function pgqueue.delete_schedule(p_name text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    delete from pgqueue.schedules s where s.name = p_name;
    if not found then
        perform pgqueue._schedule_not_found(p_name);
    end if;
end $$;

comment on function pgqueue.delete_schedule(text) is 'Deletes a schedule and its history; tasks that it submitted stay.';

create or replace function pgqueue.get_schedule(p_name text) returns setof pgqueue.schedules
language plpgsql stable security definer set search_path = ''
as $$
begin
    return query select s.* from pgqueue.schedules s where s.name = p_name;
    if not found then
        perform pgqueue._schedule_not_found(p_name);
    end if;
end $$;

comment on function pgqueue.get_schedule(text) is 'One schedule; QU103 if there is none.';

drop function if exists pgqueue.list_schedules(int, text);
create or replace function pgqueue.list_schedules(
    p_limit int default 1000, p_after text default null, p_queue_names text[] default null
) returns setof pgqueue.schedules
language plpgsql stable security definer set search_path = ''
as $$
begin
    perform pgqueue._check_filter(null, coalesce(p_limit, 0), 0);
    return query
    select s.*
    from pgqueue.schedules s
    where (p_after is null or s.name > p_after) and (p_queue_names is null or s.queue_name = any(p_queue_names))
    order by s.name
    limit p_limit;
end $$;

comment on function pgqueue.list_schedules(int, text, text[]) is 'Schedules by name, after a name, of all queues or of some.';

create or replace function pgqueue.get_schedule_ticks(p_name text, p_limit int default 100, p_before timestamptz default null)
returns setof pgqueue.schedule_ticks
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_id bigint := (select s.id from pgqueue.get_schedule(p_name) s);
begin
    perform pgqueue._check_filter(null, coalesce(p_limit, 0), 0);
    return query
    select k.*
    from pgqueue.schedule_ticks k
    where k.schedule_id = v_id and (p_before is null or k.tick < p_before)
    order by k.tick desc
    limit p_limit;
end $$;

comment on function pgqueue.get_schedule_ticks(text, int, timestamptz) is 'What became of the ticks of a schedule, newest first.';

drop function if exists pgqueue.scheduler_stats();
create or replace function pgqueue.scheduler_stats(p_queue_names text[] default null)
returns table (
    active_jobs bigint, paused_jobs bigint, ended_jobs bigint, failed_jobs bigint, next_run_at timestamptz,
    lag double precision, fired bigint, queued_ticks bigint
)
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
begin
    return query
    select
        count(*) filter (where s.is_active and s.error is null and (s.planned_at is null or s.next_run_at is not null)),
        count(*) filter (where not s.is_active),
        count(*) filter (where s.is_active and s.error is null and s.planned_at is not null and s.next_run_at is null),
        count(*) filter (where s.is_active and s.error is not null),
        min(s.next_run_at) filter (where s.is_active),
        coalesce(extract(epoch from v_now - least(
            min(s.next_run_at) filter (where s.is_active), min(s.updated_at) filter (where s.is_active and s.planned_at is null), v_now
        )), 0)::double precision,
        coalesce(sum(s.run_count), 0)::bigint,
        (
            select count(*)
            from pgqueue.schedule_ticks k
            join pgqueue.schedules o on o.id = k.schedule_id
            where k.state = 'queued' and (p_queue_names is null or o.queue_name = any(p_queue_names))
        )
    from pgqueue.schedules s
    where p_queue_names is null or s.queue_name = any(p_queue_names);
end $$;

comment on function pgqueue.scheduler_stats(text[]) is
'Schedules by state, the next tick, seconds by which the oldest due tick is late, ticks fired so far, ticks that wait for an earlier task.';

create or replace view pgqueue.schedule_overview as
select
    s.name, s.task_type, s.queue_name, s.cron_expr, s.time_zone,
    case
        when not s.is_active then 'paused'
        when s.error is not null then 'failed'
        when s.planned_at is null then 'new'
        when s.next_run_at is null then 'ended'
        else 'active'
    end as state,
    coalesce(s.error, s.pause_reason) as reason,
    case when s.is_active then s.next_run_at end as next_run_at,
    case when s.is_active then s.next_run_at - pgqueue._now() end as due_in,
    s.last_run_at, s.last_task_id,
    (select a.status from pgqueue.all_tasks a where a.id = s.last_task_id) as last_status,
    s.run_count, s.missed, s.overlap
from pgqueue.schedules s
order by s.name;

comment on view pgqueue.schedule_overview is 'What is scheduled, when does it run next, how did it end last?';
