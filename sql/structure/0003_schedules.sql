-- When tasks are submitted by the clock: schedules, and one row a tick that was dealt with.

create domain pgqueue.schedule_name as text
constraint schedules_name check (value <> '' and length(value) <= 200 and value !~ '[[:cntrl:]]');
create domain pgqueue.cron_expr as text
constraint schedules_cron_expr check (value <> '' and length(value) <= 200 and value !~ '[[:cntrl:]]');

comment on domain pgqueue.schedule_name is '1 to 200 characters without control characters.';
comment on domain pgqueue.cron_expr is '1 to 200 characters without control characters; whether they mean something is told by schedules.error.';

create table pgqueue.schedules (
    id bigint generated always as identity primary key,
    name pgqueue.schedule_name not null,
    task_type pgqueue.task_type not null,
    cron_expr pgqueue.cron_expr not null,
    time_zone text not null default 'UTC',
    queue_name text not null default 'default',
    payload pgqueue.payload not null default '{}',
    priority smallint not null default 5,
    max_retries pgqueue.max_retries not null default 3,
    timeout pgqueue.timeout,
    user_id pgqueue.user_id,
    project_id pgqueue.project_id,
    metadata pgqueue.metadata,
    missed text not null default 'once',
    catch_up_window int not null default 86400,
    overlap text not null default 'allow',
    jitter int not null default 0,
    starts_at pgqueue.run_at,
    ends_at pgqueue.run_at,
    max_runs int,
    is_active boolean not null default true,
    paused_at timestamptz,
    pause_reason text,
    next_run_at timestamptz,
    last_run_at timestamptz,
    last_task_id bigint,
    run_count bigint not null default 0,
    planned_at timestamptz,
    error text,
    revision int not null default 1,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint schedules_name_key unique (name),
    constraint schedules_queue foreign key (queue_name) references pgqueue.queues (name),
    constraint schedules_time_zone check (time_zone <> '' and length(time_zone) <= 100),
    constraint schedules_missed check (missed in ('skip', 'once', 'all')),
    constraint schedules_catch_up_window check (catch_up_window between 0 and 31536000),
    constraint schedules_overlap check (overlap in ('allow', 'skip', 'queue', 'cancel_previous')),
    constraint schedules_jitter check (jitter between 0 and 86400),
    constraint schedules_ends_at check (ends_at > starts_at),
    constraint schedules_max_runs check (max_runs > 0),
    constraint schedules_metadata check (jsonb_typeof(metadata) = 'object'),
    constraint schedules_pause_reason check (length(pause_reason) <= 1000)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 500);

create index schedules_due on pgqueue.schedules (next_run_at) where is_active and planned_at is not null;
create index schedules_unplanned on pgqueue.schedules (id) where is_active and planned_at is null;

comment on table pgqueue.schedules is 'Tasks that are submitted by the clock. A plain insert is enough: it is planned within a second.';
comment on column pgqueue.schedules.id is 'Stays when the schedule is changed; a schedule made anew under the same name has another.';
comment on column pgqueue.schedules.name is 'What people call it; unique.';
comment on column pgqueue.schedules.task_type is 'Names the handler of its tasks.';
comment on column pgqueue.schedules.cron_expr is 'Minute, hour, day of month, month, day of week; a sixth field at the end is the second; or @hourly and the like.';
comment on column pgqueue.schedules.time_zone is 'The IANA zone whose clocks the expression is about.';
comment on column pgqueue.schedules.queue_name is 'The queue of its tasks.';
comment on column pgqueue.schedules.payload is 'The payload of its tasks.';
comment on column pgqueue.schedules.priority is 'As in tasks.';
comment on column pgqueue.schedules.max_retries is 'As in tasks.';
comment on column pgqueue.schedules.timeout is 'As in tasks.';
comment on column pgqueue.schedules.user_id is 'As in tasks.';
comment on column pgqueue.schedules.project_id is 'As in tasks.';
comment on column pgqueue.schedules.metadata is 'As in tasks; its tasks have schedule and tick added.';
comment on column pgqueue.schedules.missed is
'What becomes of ticks that nobody fired within a minute: skip, once (the newest within catch_up_window, unless a tick is due now), all (within it).';
comment on column pgqueue.schedules.catch_up_window is 'Seconds after which a missed tick is skipped whatever missed says.';
comment on column pgqueue.schedules.overlap is
'What becomes of a tick while a task of an earlier one is live: allow, skip, queue (run after it), cancel_previous (cancel it, then run).';
comment on column pgqueue.schedules.jitter is 'Seconds by which a task may start after its tick; always the same for the same tick.';
comment on column pgqueue.schedules.starts_at is 'No tick before this moment.';
comment on column pgqueue.schedules.ends_at is 'No tick after this moment.';
comment on column pgqueue.schedules.max_runs is 'After so many ticks were fired it has ended.';
comment on column pgqueue.schedules.is_active is 'False while it is paused.';
comment on column pgqueue.schedules.paused_at is 'Since when.';
comment on column pgqueue.schedules.pause_reason is 'Why, in the words of whoever paused it.';
comment on column pgqueue.schedules.next_run_at is 'The next tick; null before it is planned, and after the last.';
comment on column pgqueue.schedules.last_run_at is 'The last tick that was fired.';
comment on column pgqueue.schedules.last_task_id is 'The task of the last tick.';
comment on column pgqueue.schedules.run_count is 'How many ticks were fired.';
comment on column pgqueue.schedules.planned_at is 'When next_run_at was worked out; null asks for it.';
comment on column pgqueue.schedules.error is 'Why it cannot be planned or fired, in plain words; null where it can.';
comment on column pgqueue.schedules.revision is 'Grows when it is changed, so that nothing planned before is fired after.';
comment on column pgqueue.schedules.created_at is 'When it was made.';
comment on column pgqueue.schedules.updated_at is 'When it was last changed.';

create table pgqueue.schedule_ticks (
    schedule_id bigint not null,
    tick timestamptz not null,
    kind text not null default 'scheduled',
    state text not null,
    reason text,
    until timestamptz,
    task_id bigint,
    decided_at timestamptz not null,
    constraint schedule_ticks_key primary key (schedule_id, tick),
    constraint schedule_ticks_schedule foreign key (schedule_id) references pgqueue.schedules (id) on delete cascade,
    constraint schedule_ticks_kind check (kind in ('scheduled', 'catch_up', 'manual', 'backfill')),
    constraint schedule_ticks_state check (
        case state
            when 'fired' then task_id is not null and until is null
            when 'queued' then task_id is null and until is null
            when 'skipped' then task_id is null and reason is not null
            else false
        end
    )
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

create index schedule_ticks_fired on pgqueue.schedule_ticks (schedule_id, task_id) where task_id is not null;
create index schedule_ticks_queued on pgqueue.schedule_ticks (schedule_id, tick) where state = 'queued';
create index schedule_ticks_decided on pgqueue.schedule_ticks (decided_at);

comment on table pgqueue.schedule_ticks is 'What became of each tick. The primary key is why no tick is ever fired twice.';
comment on column pgqueue.schedule_ticks.schedule_id is 'The schedule.';
comment on column pgqueue.schedule_ticks.tick is 'The moment that the expression names; for a manual run, when it was asked for.';
comment on column pgqueue.schedule_ticks.kind is 'scheduled, catch_up (found late), manual (run now) or backfill.';
comment on column pgqueue.schedule_ticks.state is 'fired, skipped, or queued behind a task that is live.';
comment on column pgqueue.schedule_ticks.reason is 'Why it was skipped or waits.';
comment on column pgqueue.schedule_ticks.until is 'Where one row stands for a run of skipped ticks: all from tick up to before this moment.';
comment on column pgqueue.schedule_ticks.task_id is 'The task that it submitted.';
comment on column pgqueue.schedule_ticks.decided_at is 'When that was decided.';
