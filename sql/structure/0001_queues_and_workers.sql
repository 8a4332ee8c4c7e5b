-- Who works and where: queues, worker processes, and what each of them holds or waits for.

create table pgqueue.queues (
    name text primary key,
    concurrency int not null default 5,
    capacity int,
    max_crashes int not null default 3,
    paused_at timestamptz,
    pause_reason text,
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    constraint queues_name check (name <> '' and length(name) <= 200 and name !~ '[[:cntrl:]]'),
    constraint queues_concurrency check (concurrency between 0 and 100000),
    constraint queues_capacity check (capacity > 0),
    constraint queues_max_crashes check (max_crashes between 1 and 1000),
    constraint queues_pause_reason check (pause_reason is null or paused_at is not null)
) with (fillfactor = 80);

comment on table pgqueue.queues is 'One row a queue: the defaults that workers follow, its limit, and whether it is paused.';
comment on column pgqueue.queues.name is 'Any text of 1 to 200 characters without control characters.';
comment on column pgqueue.queues.concurrency is 'Slots a worker process gives this queue unless it says otherwise; 0 runs nothing.';
comment on column pgqueue.queues.capacity is 'Most tasks that may wait here; beyond it a submit is refused with QU401. Null: no limit. Soft under concurrent submits.';
comment on column pgqueue.queues.max_crashes is 'A task whose worker died under it this often is failed as poison.';
comment on column pgqueue.queues.paused_at is 'Since when no task is claimed here; null while the queue runs.';
comment on column pgqueue.queues.pause_reason is 'Why it is paused, in the words of whoever paused it.';
comment on column pgqueue.queues.created_at is 'When the queue was made.';
comment on column pgqueue.queues.updated_at is 'When its settings last changed.';

insert into pgqueue.queues (name) values ('default');

-- A cache of the (queue, rank) pairs in use. No unique key: an open transaction that uses a new
-- priority first must not block another that does the same.
create table pgqueue.lanes (
    queue_name text not null,
    rank int not null
);

create index lanes_queue on pgqueue.lanes (queue_name, rank);

comment on table pgqueue.lanes is 'A cache of the priorities in use in each queue; may hold doubles, never the truth.';
comment on column pgqueue.lanes.queue_name is 'The queue.';
comment on column pgqueue.lanes.rank is 'The negated priority, so that the smallest rank runs first.';

create table pgqueue.queue_counts (
    queue_name text primary key references pgqueue.queues (name) on delete cascade,
    waiting bigint not null,
    counted_at timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

comment on table pgqueue.queue_counts is 'What maintenance last counted in queues that are too long to count on the spot.';
comment on column pgqueue.queue_counts.queue_name is 'The queue.';
comment on column pgqueue.queue_counts.waiting is 'Tasks that were pending, scheduled or blocked.';
comment on column pgqueue.queue_counts.counted_at is 'When they were counted.';

create table pgqueue.workers (
    id bigint generated always as identity primary key,
    hostname text not null,
    pid int not null,
    queues text[] not null,
    concurrency jsonb not null default '{}',
    version text,
    lease interval not null default interval '30 seconds',
    started_at timestamptz not null default clock_timestamp(),
    heartbeat_at timestamptz not null default clock_timestamp(),
    stop_requested_at timestamptz,
    lost_at timestamptz,
    status jsonb not null default '{}',
    constraint workers_lease check (lease > interval '0')
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

comment on table pgqueue.workers is 'One row a worker process start; ids are never used again.';
comment on column pgqueue.workers.id is 'Fresh for each process start.';
comment on column pgqueue.workers.hostname is 'Where it runs.';
comment on column pgqueue.workers.pid is 'Its process id there.';
comment on column pgqueue.workers.queues is 'The queues it serves.';
comment on column pgqueue.workers.concurrency is 'Its slots, by queue.';
comment on column pgqueue.workers.version is 'The version of pgqueue it runs.';
comment on column pgqueue.workers.lease is 'How old its heartbeat may grow before its tasks are given to others.';
comment on column pgqueue.workers.started_at is 'When it registered.';
comment on column pgqueue.workers.heartbeat_at is 'When it was last heard, by the clock of the database.';
comment on column pgqueue.workers.stop_requested_at is 'Set by an operator; the worker drains and stops.';
comment on column pgqueue.workers.lost_at is 'When its lease was taken away; from then on it can claim nothing.';
comment on column pgqueue.workers.status is 'What the worker says of itself: listener, slots in use, loop lag.';

create table pgqueue.claims (
    worker_id bigint not null,
    claim_no int not null,
    ids bigint[] not null,
    claimed_at timestamptz not null,
    constraint claims_key primary key (worker_id, claim_no)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- Short-lived arrays are not worth compressing.
alter table pgqueue.claims alter column ids set storage external;

comment on table pgqueue.claims is 'One row a claimed batch: what runs, found without an index on tasks.status.';
comment on column pgqueue.claims.worker_id is 'Who claimed.';
comment on column pgqueue.claims.claim_no is 'The worker''s own count of its claims; a batch it does not know was lost on the way.';
comment on column pgqueue.claims.ids is 'The tasks of the batch.';
comment on column pgqueue.claims.claimed_at is 'When.';

create table pgqueue.waits (
    queue_name text not null,
    worker_id bigint not null,
    attending boolean not null,
    constraint waits_key primary key (queue_name, worker_id)
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

comment on table pgqueue.waits is 'Who has free slots, so that a submit knows whether anybody must be woken.';
comment on column pgqueue.waits.queue_name is 'The queue.';
comment on column pgqueue.waits.worker_id is 'The worker with free slots there.';
comment on column pgqueue.waits.attending is 'True: it looks every few milliseconds by itself. False: it sleeps until it is notified.';

create table pgqueue.listeners (
    hub_id uuid not null,
    scope text not null,
    task_id bigint not null default 0,
    queue_name text not null default '',
    fresh_until timestamptz not null,
    constraint listeners_key primary key (hub_id, scope, task_id, queue_name),
    constraint listeners_scope check (
        (scope = 'all' and task_id = 0 and queue_name = '')
        or (scope = 'queue' and task_id = 0 and queue_name <> '')
        or (scope = 'task' and task_id > 0 and queue_name = '')
    )
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

comment on table pgqueue.listeners is 'Who follows which events; where nobody follows, no event is sent.';
comment on column pgqueue.listeners.hub_id is 'The listening process.';
comment on column pgqueue.listeners.scope is 'all, queue or task.';
comment on column pgqueue.listeners.task_id is 'The task that is followed, 0 for a wider scope.';
comment on column pgqueue.listeners.queue_name is 'The queue that is followed, empty for another scope.';
comment on column pgqueue.listeners.fresh_until is 'Until when the row counts; its owner renews it.';
