-- The life of a task: live in tasks, then in finished_tasks, with one executions row an ended attempt.

-- What a field may hold is said by a domain: it is checked where a value comes in. A CHECK of the table
-- would be read and evaluated again by every claim, which costs more than the claim itself.
create domain pgqueue.task_type as text
constraint tasks_task_type check (value <> '' and length(value) <= 200 and value !~ '[[:cntrl:]]');
create domain pgqueue.payload as jsonb constraint tasks_payload check (pg_column_size(value) <= 1048576);
create domain pgqueue.result as jsonb constraint tasks_result check (pg_column_size(value) <= 1048576);
create domain pgqueue.metadata as jsonb constraint tasks_metadata check (pg_column_size(value) <= 65536);
create domain pgqueue.max_retries as int constraint tasks_max_retries check (value between 0 and 10000);
create domain pgqueue.timeout as int constraint tasks_timeout check (value between 1 and 31536000);
create domain pgqueue.run_at as timestamptz
constraint tasks_run_at check (value >= '1970-01-01 00:00:00+00' and value < '3000-01-01 00:00:00+00');
create domain pgqueue.unique_key as text constraint tasks_unique_key check (value <> '' and length(value) <= 500);
create domain pgqueue.user_id as text constraint tasks_user_id check (length(value) <= 200);
create domain pgqueue.project_id as text constraint tasks_project_id check (length(value) <= 200);

comment on domain pgqueue.task_type is '1 to 200 characters without control characters.';
comment on domain pgqueue.payload is 'JSON of at most 1 MiB.';
comment on domain pgqueue.result is 'JSON of at most 1 MiB.';
comment on domain pgqueue.metadata is 'JSON of at most 64 KiB.';
comment on domain pgqueue.max_retries is '0 to 10000.';
comment on domain pgqueue.timeout is 'Seconds, 1 to 31536000 (one year).';
comment on domain pgqueue.run_at is 'A moment from 1970 to 2999.';
comment on domain pgqueue.unique_key is '1 to 500 characters.';
comment on domain pgqueue.user_id is 'At most 200 characters.';
comment on domain pgqueue.project_id is 'At most 200 characters.';

-- Claims, heartbeats and reports change status, attempt, worker_id, claim_no and started_at. No index
-- may mention one of these, so that every such update is HOT; fillfactor leaves it room on its page.
create table pgqueue.tasks (
    id bigint generated always as identity primary key,
    task_type pgqueue.task_type not null,
    queue_name text not null default 'default',
    priority smallint not null default 5,
    rank int generated always as (-priority::int) stored,
    payload pgqueue.payload not null default '{}',
    status text not null default 'pending',
    max_retries pgqueue.max_retries not null default 3,
    timeout pgqueue.timeout,
    run_at pgqueue.run_at not null default clock_timestamp(),
    waits_for int not null default 0,
    unique_key pgqueue.unique_key,
    user_id pgqueue.user_id,
    project_id pgqueue.project_id,
    metadata pgqueue.metadata,
    attempt int not null default 0,
    failures int not null default 0,
    crashes int not null default 0,
    worker_id bigint,
    claim_no int,
    created_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    cancel_requested_at timestamptz,
    cancel_reason text,
    result pgqueue.result,
    error text,
    constraint tasks_state check (
        case status
            when 'running' then waits_for = 0 and num_nulls(worker_id, claim_no, started_at) = 0
            when 'pending' then waits_for = 0 and num_nonnulls(worker_id, claim_no, started_at, cancel_requested_at) = 0
            when 'blocked' then waits_for > 0 and num_nonnulls(worker_id, claim_no, started_at, cancel_requested_at) = 0
            else false
        end
    )
) with (
    fillfactor = 45,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0.1,
    autovacuum_vacuum_cost_delay = 0
);

create index tasks_lane on pgqueue.tasks (queue_name, rank, run_at, id) where waits_for = 0;
create index tasks_blocked on pgqueue.tasks (queue_name) where waits_for > 0;
create unique index tasks_unique_live on pgqueue.tasks (task_type, unique_key) where unique_key is not null;
create index tasks_user on pgqueue.tasks (user_id, id) where user_id is not null;
create index tasks_project on pgqueue.tasks (project_id, id) where project_id is not null;

comment on table pgqueue.tasks is 'The live tasks. A plain insert is a full submit.';
comment on column pgqueue.tasks.id is 'Grows with every submit; stays the same over retries.';
comment on column pgqueue.tasks.task_type is 'Names the handler that runs it.';
comment on column pgqueue.tasks.queue_name is 'The queue it waits in; must exist.';
comment on column pgqueue.tasks.priority is 'Higher runs first; 1 low, 5 normal, 10 high, 20 urgent, any smallint.';
comment on column pgqueue.tasks.rank is 'The negated priority: index order is claim order.';
comment on column pgqueue.tasks.payload is 'What the handler is given; at most 1 MiB.';
comment on column pgqueue.tasks.status is 'blocked, pending or running.';
comment on column pgqueue.tasks.max_retries is 'How many failures are followed by another attempt.';
comment on column pgqueue.tasks.timeout is 'Seconds an attempt may run; null: no limit.';
comment on column pgqueue.tasks.run_at is 'Not started before this moment of the database''s clock.';
comment on column pgqueue.tasks.waits_for is 'Unfinished tasks it depends on; above 0 it is blocked.';
comment on column pgqueue.tasks.unique_key is 'At most one live task has this key in its task_type.';
comment on column pgqueue.tasks.user_id is 'The user it works for, to filter by.';
comment on column pgqueue.tasks.project_id is 'The project it works for, to filter by.';
comment on column pgqueue.tasks.metadata is 'Anything the submitter wants kept beside the payload; at most 64 KiB.';
comment on column pgqueue.tasks.attempt is 'Starts so far, never reset: (id, attempt) is the lease of the running attempt.';
comment on column pgqueue.tasks.failures is 'Failures and timeouts that count against max_retries.';
comment on column pgqueue.tasks.crashes is 'Leases lost with their worker.';
comment on column pgqueue.tasks.worker_id is 'The worker that runs it; null unless running.';
comment on column pgqueue.tasks.claim_no is 'Which of that worker''s claims took it.';
comment on column pgqueue.tasks.created_at is 'When it was submitted.';
comment on column pgqueue.tasks.started_at is 'When the running attempt was claimed.';
comment on column pgqueue.tasks.cancel_requested_at is 'Set on a running task that shall be cancelled.';
comment on column pgqueue.tasks.cancel_reason is 'Why, in the words of whoever asked.';
comment on column pgqueue.tasks.result is 'What set_task_result stored so far.';
comment on column pgqueue.tasks.error is 'The last error, while it is retried.';

create table pgqueue.finished_tasks (
    id bigint not null,
    task_type text not null,
    queue_name text not null,
    priority smallint not null,
    payload jsonb not null,
    status text not null,
    max_retries int not null,
    timeout int,
    run_at timestamptz not null,
    unique_key text,
    user_id text,
    project_id text,
    metadata jsonb,
    attempt int not null,
    failures int not null,
    crashes int not null,
    worker_id bigint,
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz not null,
    result pgqueue.result,
    error text,
    progress jsonb,
    constraint finished_tasks_key primary key (id, finished_at),
    constraint finished_tasks_status check (status in ('completed', 'failed', 'cancelled'))
) partition by range (finished_at);

comment on table pgqueue.finished_tasks is 'Tasks that ended, by day. Each is moved here once, by the statement that ends it.';
comment on column pgqueue.finished_tasks.id is 'As in tasks.';
comment on column pgqueue.finished_tasks.task_type is 'As in tasks.';
comment on column pgqueue.finished_tasks.queue_name is 'As in tasks.';
comment on column pgqueue.finished_tasks.priority is 'As in tasks.';
comment on column pgqueue.finished_tasks.payload is 'As in tasks.';
comment on column pgqueue.finished_tasks.status is 'completed, failed or cancelled.';
comment on column pgqueue.finished_tasks.max_retries is 'As in tasks.';
comment on column pgqueue.finished_tasks.timeout is 'As in tasks.';
comment on column pgqueue.finished_tasks.run_at is 'As in tasks.';
comment on column pgqueue.finished_tasks.unique_key is 'As in tasks; free again.';
comment on column pgqueue.finished_tasks.user_id is 'As in tasks.';
comment on column pgqueue.finished_tasks.project_id is 'As in tasks.';
comment on column pgqueue.finished_tasks.metadata is 'As in tasks.';
comment on column pgqueue.finished_tasks.attempt is 'How often it was started.';
comment on column pgqueue.finished_tasks.failures is 'How often it failed or timed out.';
comment on column pgqueue.finished_tasks.crashes is 'How often its worker was lost.';
comment on column pgqueue.finished_tasks.worker_id is 'Who ran the last attempt; null if none ran.';
comment on column pgqueue.finished_tasks.created_at is 'As in tasks.';
comment on column pgqueue.finished_tasks.started_at is 'When the last attempt''s handler started; null if none did.';
comment on column pgqueue.finished_tasks.finished_at is 'When it ended; the partition key.';
comment on column pgqueue.finished_tasks.result is 'What the handler returned or set_task_result stored.';
comment on column pgqueue.finished_tasks.error is 'Why it failed or was cancelled.';
comment on column pgqueue.finished_tasks.progress is 'The last progress report.';

create table pgqueue.executions (
    task_id bigint not null,
    attempt int not null,
    worker_id bigint,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    outcome text not null,
    error_type text,
    error_message text,
    traceback text,
    constraint executions_outcome check (
        outcome in ('completed', 'failed', 'timed_out', 'cancelled', 'lost', 'released', 'snoozed')
    )
) partition by range (finished_at);

create index executions_task on pgqueue.executions (task_id, attempt);

comment on table pgqueue.executions is 'One row an ended attempt, by day.';
comment on column pgqueue.executions.task_id is 'The task.';
comment on column pgqueue.executions.attempt is 'Which attempt; with task_id the lease it held.';
comment on column pgqueue.executions.worker_id is 'Who ran it.';
comment on column pgqueue.executions.started_at is 'When its handler started.';
comment on column pgqueue.executions.finished_at is 'When its end was recorded.';
comment on column pgqueue.executions.outcome is 'completed, failed, timed_out, cancelled, lost (with its worker), released (by a stopping worker) or snoozed.';
comment on column pgqueue.executions.error_type is 'The class of the error.';
comment on column pgqueue.executions.error_message is 'Its message, at most 64 KiB.';
comment on column pgqueue.executions.traceback is 'Where it was raised, at most 64 KiB.';

create table pgqueue.task_progress (
    task_id bigint primary key,
    progress int not null,
    message text,
    step text,
    completed_steps int,
    total_steps int,
    updated_at timestamptz not null,
    constraint task_progress_progress check (progress between 0 and 100),
    constraint task_progress_steps check (completed_steps between 0 and total_steps)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

comment on table pgqueue.task_progress is 'The last report of each running task; moves into finished_tasks.progress at the end.';
comment on column pgqueue.task_progress.task_id is 'The task.';
comment on column pgqueue.task_progress.progress is 'Percent, 0 to 100.';
comment on column pgqueue.task_progress.message is 'What it is doing.';
comment on column pgqueue.task_progress.step is 'The name of the step.';
comment on column pgqueue.task_progress.completed_steps is 'Steps behind it.';
comment on column pgqueue.task_progress.total_steps is 'Steps in all.';
comment on column pgqueue.task_progress.updated_at is 'When it was reported.';

create sequence pgqueue.task_logs_id_seq;

create table pgqueue.task_logs (
    id bigint not null default nextval('pgqueue.task_logs_id_seq'),
    task_id bigint not null,
    attempt int not null,
    logged_at timestamptz not null,
    level text not null,
    message text not null,
    fields jsonb,
    constraint task_logs_level check (level in ('debug', 'info', 'warning', 'error', 'critical'))
) partition by range (logged_at);

create index task_logs_task on pgqueue.task_logs (task_id, id);

alter sequence pgqueue.task_logs_id_seq owned by pgqueue.task_logs.id;

comment on table pgqueue.task_logs is 'What handlers logged, by day.';
comment on column pgqueue.task_logs.id is 'Order of arrival.';
comment on column pgqueue.task_logs.task_id is 'The task.';
comment on column pgqueue.task_logs.attempt is 'The attempt that logged it.';
comment on column pgqueue.task_logs.logged_at is 'When it was logged.';
comment on column pgqueue.task_logs.level is 'debug, info, warning, error or critical.';
comment on column pgqueue.task_logs.message is 'The event.';
comment on column pgqueue.task_logs.fields is 'Its fields.';
