-- What lasts longer than a statement: how long history is kept, and changes of many tasks.

alter table pgqueue.queues
add column keep_completed interval,
add column keep_failed interval,
add column keep_cancelled interval,
add constraint queues_keep check (
    coalesce(keep_completed, '0') between interval '0' and interval '1000 years'
    and coalesce(keep_failed, '0') between interval '0' and interval '1000 years'
    and coalesce(keep_cancelled, '0') between interval '0' and interval '1000 years'
);

comment on column pgqueue.queues.keep_completed is 'How long completed tasks are kept; null: as long as the workers'' settings say.';
comment on column pgqueue.queues.keep_failed is 'How long failed tasks are kept; null: as long as the workers'' settings say.';
comment on column pgqueue.queues.keep_cancelled is 'How long cancelled tasks are kept; null: as long as the workers'' settings say.';

create table pgqueue.retention (
    is_only boolean primary key default true,
    started_at timestamptz not null default '-infinity',
    completed_at timestamptz,
    keep_completed interval not null default interval '30 days',
    keep_failed interval not null default interval '30 days',
    keep_cancelled interval not null default interval '30 days',
    constraint retention_only check (is_only)
) with (fillfactor = 50);

comment on table pgqueue.retention is 'One row: the last pass over the history, and for how long it kept what has no setting of its own.';
comment on column pgqueue.retention.is_only is 'True: there is one row.';
comment on column pgqueue.retention.started_at is 'When the last pass began; whoever sets it runs the pass.';
comment on column pgqueue.retention.completed_at is 'Nothing was overdue at this moment; null where settings have changed since.';
comment on column pgqueue.retention.keep_completed is 'For completed tasks, by the settings of the worker that ran the pass.';
comment on column pgqueue.retention.keep_failed is 'For failed tasks.';
comment on column pgqueue.retention.keep_cancelled is 'For cancelled tasks.';

insert into pgqueue.retention default values;

create table pgqueue.operations (
    id bigint generated always as identity primary key,
    kind text not null,
    filter jsonb not null,
    reason text,
    state text not null default 'running',
    first_id bigint not null,
    last_id bigint not null,
    after_id bigint not null,
    matched bigint not null default 0,
    done bigint not null default 0,
    skipped bigint not null default 0,
    details jsonb not null default '{}',
    busy_ids bigint[] not null default '{}',
    busy_rounds int not null default 0,
    requested_by text not null,
    created_at timestamptz not null,
    stepped_at timestamptz,
    finished_at timestamptz,
    error text,
    constraint operations_kind check (kind in ('retry', 'cancel', 'delete')),
    constraint operations_state check (
        case state
            when 'running' then finished_at is null
            when 'failed' then num_nulls(finished_at, error) = 0
            else state in ('completed', 'cancelled') and finished_at is not null
        end
    )
) with (fillfactor = 50);

comment on table pgqueue.operations is 'Changes of many tasks, made in small steps by whoever asked, or by the workers where that one died.';
comment on column pgqueue.operations.id is 'Grows with every operation.';
comment on column pgqueue.operations.kind is 'retry, cancel or delete.';
comment on column pgqueue.operations.filter is 'Which tasks, as start_operation was told.';
comment on column pgqueue.operations.reason is 'Kept with tasks that are cancelled.';
comment on column pgqueue.operations.state is 'running, completed, cancelled or failed.';
comment on column pgqueue.operations.first_id is 'The smallest id there was at the start.';
comment on column pgqueue.operations.last_id is 'The largest id there was at the start; later tasks are none of its.';
comment on column pgqueue.operations.after_id is 'Tasks up to this id were looked at.';
comment on column pgqueue.operations.matched is 'Tasks found so far.';
comment on column pgqueue.operations.done is 'Tasks that were changed; a running one that is asked to stop counts.';
comment on column pgqueue.operations.skipped is 'Tasks that could not be changed.';
comment on column pgqueue.operations.details is 'By reason (duplicate, queue_full, queue_missing, busy, and asked_to_stop among the done) the count and the first ids.';
comment on column pgqueue.operations.busy_ids is 'Tasks that somebody else held; they are tried again at the end.';
comment on column pgqueue.operations.busy_rounds is 'How often that was in vain.';
comment on column pgqueue.operations.requested_by is 'Who asked.';
comment on column pgqueue.operations.created_at is 'When.';
comment on column pgqueue.operations.stepped_at is 'When the last step ended.';
comment on column pgqueue.operations.finished_at is 'When it ended.';
comment on column pgqueue.operations.error is 'Why it failed.';
