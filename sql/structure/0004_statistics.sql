-- Figures that stay cheap and exact: what ended is folded into rollups; see docs/decisions/0008.

-- What ended when is found by BRIN: rows lie in the order in which they ended, and such an index costs a
-- finish next to nothing. The others hold only rows that somebody asks for by name.
create index finished_tasks_ended on pgqueue.finished_tasks using brin (finished_at) with (pages_per_range = 32);
create index finished_tasks_unsuccessful on pgqueue.finished_tasks (id) where status <> 'completed';
create index finished_tasks_user on pgqueue.finished_tasks (user_id, id) where user_id is not null;
create index finished_tasks_project on pgqueue.finished_tasks (project_id, id) where project_id is not null;

create table pgqueue.task_rollups (
    step text not null,
    bucket timestamptz not null,
    queue_name text not null,
    task_type text not null,
    status text not null,
    finished bigint not null,
    kept bigint not null,
    run_us numeric not null,
    wait_us numeric not null,
    run_histogram bigint[] not null,
    wait_histogram bigint[] not null,
    constraint task_rollups_key primary key (step, bucket, queue_name, task_type, status),
    constraint task_rollups_step check (step in ('minute', 'hour', 'day', 'total'))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

comment on table pgqueue.task_rollups is 'What ended before statistics_state.folded_before, counted by minute, hour, day (of UTC) and in total.';
comment on column pgqueue.task_rollups.step is 'minute, hour, day or total.';
comment on column pgqueue.task_rollups.bucket is 'Where the minute, hour or day begins; -infinity for the total.';
comment on column pgqueue.task_rollups.queue_name is 'The queue.';
comment on column pgqueue.task_rollups.task_type is 'The type.';
comment on column pgqueue.task_rollups.status is 'completed, failed or cancelled.';
comment on column pgqueue.task_rollups.finished is 'How many tasks ended so; those removed since count, those retried do not.';
comment on column pgqueue.task_rollups.kept is 'How many of them are still in finished_tasks; only in rows of days.';
comment on column pgqueue.task_rollups.run_us is 'Sum of the microseconds from the start of the last attempt to its end.';
comment on column pgqueue.task_rollups.wait_us is 'Sum of the microseconds from when it was due to the start of the last attempt.';
comment on column pgqueue.task_rollups.run_histogram is 'The run times: tasks * 512 + bin for each bin of pgqueue._bin.';
comment on column pgqueue.task_rollups.wait_histogram is 'The waits, in the same way.';

-- Append only; every fold takes out what it has used.
create table pgqueue.task_departures (
    finished_at timestamptz not null,
    queue_name text not null,
    task_type text not null,
    status text not null,
    run_us bigint,
    wait_us bigint,
    tasks bigint not null,
    still_counts boolean not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

comment on table pgqueue.task_departures is 'Rows that left finished_tasks, until the next fold of statistics: in any snapshot either the row is there or this.';
comment on column pgqueue.task_departures.finished_at is 'When the task had ended; where that was folded long ago, the day.';
comment on column pgqueue.task_departures.queue_name is 'Its queue.';
comment on column pgqueue.task_departures.task_type is 'Its type.';
comment on column pgqueue.task_departures.status is 'How it had ended.';
comment on column pgqueue.task_departures.run_us is 'How long its last attempt had run; null if none did.';
comment on column pgqueue.task_departures.wait_us is 'How long that had waited.';
comment on column pgqueue.task_departures.tasks is 'How many rows like this one left.';
comment on column pgqueue.task_departures.still_counts is 'True: removed, and counted for ever. False: it starts again, and never ended.';

create table pgqueue.statistics_state (
    is_only boolean primary key default true,
    folded_before timestamptz not null default '-infinity',
    folding_before timestamptz,
    fence xid8,
    minutes_from timestamptz not null default '-infinity',
    hours_from timestamptz not null default '-infinity',
    constraint statistics_state_only check (is_only)
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

insert into pgqueue.statistics_state default values;

comment on table pgqueue.statistics_state is 'One row: how far the rollups have come.';
comment on column pgqueue.statistics_state.is_only is 'There is one row.';
comment on column pgqueue.statistics_state.folded_before is 'The mark: what ended before it is in the rollups, what ended later is not.';
comment on column pgqueue.statistics_state.folding_before is 'The next mark; no transaction from the fence on ends a task before it.';
comment on column pgqueue.statistics_state.fence is 'Once every transaction below it has ended, everything before folding_before can be seen.';
comment on column pgqueue.statistics_state.minutes_from is 'Rows of minutes are kept from here on.';
comment on column pgqueue.statistics_state.hours_from is 'Rows of hours are kept from here on.';

-- A sequence, because its value is read as it is now, whatever the snapshot of the transaction that asks.
create sequence pgqueue.finish_floor minvalue 0 start 0;

comment on sequence pgqueue.finish_floor is 'Microseconds since 1970: no task ends before this moment any more; see pgqueue._finish_time.';

alter table pgqueue.queue_counts add column scheduled bigint not null default 0;
alter table pgqueue.queue_counts add column blocked bigint not null default 0;

comment on column pgqueue.queue_counts.scheduled is 'Those of them that were not due yet.';
comment on column pgqueue.queue_counts.blocked is 'Those of them that waited for other tasks.';
