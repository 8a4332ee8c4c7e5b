-- Retrying, cancelling and deleting by a filter: what was asked for, and how far it has come.

create table pgqueue.operations (
    id bigint generated always as identity primary key,
    kind text not null,
    filter jsonb not null,
    reason text,
    state text not null default 'running',
    last_id bigint not null default 0,
    until_id bigint not null,
    examined bigint not null default 0,
    done bigint not null default 0,
    skipped bigint not null default 0,
    skipped_ids bigint[] not null default '{}',
    requested_by text not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    finished_at timestamptz,
    constraint operations_kind check (kind in ('retry', 'cancel', 'delete')),
    constraint operations_filter check (jsonb_typeof(filter) = 'object' and pg_column_size(filter) <= 65536),
    constraint operations_reason check (length(reason) <= 1000),
    constraint operations_requested_by check (length(requested_by) <= 200),
    constraint operations_state check (state in ('running', 'completed', 'cancelled') and (state = 'running') = (finished_at is null))
) with (fillfactor = 50);

create index operations_running on pgqueue.operations (id) where state = 'running';

comment on table pgqueue.operations is 'Bulk retries, cancels and deletes: each walks up the ids in small steps, and goes on with any worker when its caller dies.';
comment on column pgqueue.operations.id is 'In the order in which they were asked for.';
comment on column pgqueue.operations.kind is 'retry, cancel or delete.';
comment on column pgqueue.operations.filter is 'Which tasks; all fields given must match.';
comment on column pgqueue.operations.reason is 'Why, kept with cancelled tasks.';
comment on column pgqueue.operations.state is 'running, completed, or cancelled by an operator: what was done stays done.';
comment on column pgqueue.operations.last_id is 'Tasks up to this id are dealt with.';
comment on column pgqueue.operations.until_id is 'The newest task when it was asked for; later ones are none of its.';
comment on column pgqueue.operations.examined is 'Tasks that it looked at.';
comment on column pgqueue.operations.done is 'Tasks that it retried, cancelled (or asked to stop) or deleted.';
comment on column pgqueue.operations.skipped is 'Tasks that matched and could not be dealt with: a live one has their unique key, or somebody held them.';
comment on column pgqueue.operations.skipped_ids is 'The first twenty of them.';
comment on column pgqueue.operations.requested_by is 'Who asked: a name that the caller gave, or the database user.';
comment on column pgqueue.operations.created_at is 'When it was asked for.';
comment on column pgqueue.operations.updated_at is 'When its last step ended.';
comment on column pgqueue.operations.finished_at is 'When it ended.';
