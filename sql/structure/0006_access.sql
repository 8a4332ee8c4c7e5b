-- Who may use the HTTP interface, what they did with it, and the answers that a repeated request gets again.

create table pgqueue.api_keys (
    id bigint generated always as identity primary key,
    name text not null,
    selector text not null,
    secret_hash bytea not null,
    scopes text[] not null,
    queues text[],
    rate_limit int,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_at timestamptz,
    constraint api_keys_name check (name <> '' and length(name) <= 200 and name !~ '[[:cntrl:]]'),
    constraint api_keys_selector unique (selector),
    constraint api_keys_secret_hash check (octet_length(secret_hash) = 32),
    constraint api_keys_scopes check (cardinality(scopes) > 0 and scopes <@ array['read', 'submit', 'manage', 'admin']),
    constraint api_keys_queues check (cardinality(queues) > 0),
    constraint api_keys_rate_limit check (rate_limit between 1 and 1000000)
) with (fillfactor = 50);

create unique index api_keys_live_name on pgqueue.api_keys (name) where revoked_at is null;

comment on table pgqueue.api_keys is 'The keys of the HTTP interface. Once there is one, nobody gets in without.';
comment on column pgqueue.api_keys.id is 'The key''s number, as the audit log names it.';
comment on column pgqueue.api_keys.name is 'Who holds it; one live key a name.';
comment on column pgqueue.api_keys.selector is 'The part of the key that may be seen: it finds the row.';
comment on column pgqueue.api_keys.secret_hash is 'SHA-256 of the whole key; the key itself is kept nowhere.';
comment on column pgqueue.api_keys.scopes is 'Any of read, submit, manage and admin; admin includes the others.';
comment on column pgqueue.api_keys.queues is 'The queues that it sees and touches; null: all.';
comment on column pgqueue.api_keys.rate_limit is 'Requests a minute; null: no limit.';
comment on column pgqueue.api_keys.created_at is 'When it was made.';
comment on column pgqueue.api_keys.expires_at is 'From when on it is refused; null: never.';
comment on column pgqueue.api_keys.revoked_at is 'When it was revoked.';
comment on column pgqueue.api_keys.last_used_at is 'When it was used, to the minute.';

-- Written by every request of a limited key and worth nothing after a crash: unlogged.
create unlogged table pgqueue.api_key_usage (
    key_id bigint primary key references pgqueue.api_keys (id) on delete cascade,
    used_until timestamptz not null
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

comment on table pgqueue.api_key_usage is 'How much of its rate limit a key has used.';
comment on column pgqueue.api_key_usage.key_id is 'The key.';
comment on column pgqueue.api_key_usage.used_until is 'The moment up to which its requests are paid for; at most a minute ahead.';

create table pgqueue.audit_log (
    id bigint generated always as identity primary key,
    happened_at timestamptz not null default clock_timestamp(),
    actor text not null,
    key_id bigint,
    database_user text not null default session_user,
    action text not null,
    target text,
    outcome text not null,
    detail jsonb not null default '{}'
);

create index audit_log_happened_at on pgqueue.audit_log using brin (happened_at);

comment on table pgqueue.audit_log is 'Who changed what through the HTTP interface, and which keys were made; rows are only added.';
comment on column pgqueue.audit_log.id is 'In order of writing.';
comment on column pgqueue.audit_log.happened_at is 'When.';
comment on column pgqueue.audit_log.actor is 'The name of the key, anonymous, or database.';
comment on column pgqueue.audit_log.key_id is 'The key that was used; null where there was none.';
comment on column pgqueue.audit_log.database_user is 'The database user that the actor came through.';
comment on column pgqueue.audit_log.action is 'What was done, as noun.verb: task.submit.';
comment on column pgqueue.audit_log.target is 'To what: a task''s id, the name of a queue, schedule or key.';
comment on column pgqueue.audit_log.outcome is 'done, or the SQLSTATE or name of the error that refused it.';
comment on column pgqueue.audit_log.detail is 'What else is worth knowing.';

create table pgqueue.idempotency_keys (
    actor_id bigint not null,
    idempotency_key text not null,
    request_hash bytea not null,
    status int,
    location text,
    body text,
    expires_at timestamptz not null,
    constraint idempotency_keys_key primary key (actor_id, idempotency_key),
    constraint idempotency_keys_idempotency_key check (idempotency_key <> '' and length(idempotency_key) <= 255)
);

create index idempotency_keys_expires_at on pgqueue.idempotency_keys (expires_at);

comment on table pgqueue.idempotency_keys is 'Answers to requests with an Idempotency-Key, for those who repeat them.';
comment on column pgqueue.idempotency_keys.actor_id is 'The key that was used, 0 for none: each has idempotency keys of its own.';
comment on column pgqueue.idempotency_keys.idempotency_key is 'As the client chose it.';
comment on column pgqueue.idempotency_keys.request_hash is 'SHA-256 of method, path and body: a repetition has the same.';
comment on column pgqueue.idempotency_keys.status is 'The HTTP status of the answer.';
comment on column pgqueue.idempotency_keys.location is 'Where the answer says that the new thing is.';
comment on column pgqueue.idempotency_keys.body is 'The answer.';
comment on column pgqueue.idempotency_keys.expires_at is 'Until when it is kept.';

create table pgqueue.metric_totals (
    queue_name text not null,
    task_type text not null,
    outcome text not null,
    tasks bigint not null,
    run_us numeric not null,
    wait_us numeric not null,
    run_buckets bigint[] not null,
    wait_buckets bigint[] not null,
    constraint metric_totals_key primary key (queue_name, task_type, outcome)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

comment on table pgqueue.metric_totals is 'The highest counters that were told to Prometheus: a retry by hand, a restart or a cleanup never lets one go back.';
comment on column pgqueue.metric_totals.queue_name is 'The queue.';
comment on column pgqueue.metric_totals.task_type is 'The type.';
comment on column pgqueue.metric_totals.outcome is 'completed, failed or cancelled; submitted for those that came in.';
comment on column pgqueue.metric_totals.tasks is 'How many.';
comment on column pgqueue.metric_totals.run_us is 'Sum of the microseconds that their last attempts ran.';
comment on column pgqueue.metric_totals.wait_us is 'Sum of the microseconds that these waited once they were due.';
comment on column pgqueue.metric_totals.run_buckets is 'How many ran at most as long as each bound of pgqueue._metric_bounds(), and all that ran.';
comment on column pgqueue.metric_totals.wait_buckets is 'The same of the waits.';

create table pgqueue.metric_attempts (
    is_only boolean primary key default true,
    counted_before timestamptz not null default '-infinity',
    retries bigint not null default 0,
    rescued bigint not null default 0,
    constraint metric_attempts_only check (is_only)
) with (fillfactor = 20);

insert into pgqueue.metric_attempts default values;

comment on table pgqueue.metric_attempts is 'One row: the attempts that were counted for Prometheus.';
comment on column pgqueue.metric_attempts.is_only is 'There is one row.';
comment on column pgqueue.metric_attempts.counted_before is 'What ended before this moment is counted.';
comment on column pgqueue.metric_attempts.retries is 'Attempts other than the first of their task.';
comment on column pgqueue.metric_attempts.rescued is 'Attempts that were lost with their worker.';
