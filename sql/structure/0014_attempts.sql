-- An attempt that completed its task is told by the finished task itself: who ran it, from when to when. Only
-- the others have rows of their own, and pgqueue.executions, now a view, shows both (docs/decisions/0020).

create table pgqueue.attempts (
    task_id bigint not null,
    attempt int not null,
    worker_id bigint,
    started_at timestamptz not null,
    finished_at timestamptz not null,
    outcome text not null,
    error_type text,
    error_message text,
    traceback text,
    constraint attempts_outcome check (outcome in ('failed', 'timed_out', 'cancelled', 'lost', 'released', 'snoozed'))
) partition by range (finished_at);

create index attempts_task on pgqueue.attempts (task_id, attempt);

comment on table pgqueue.attempts is 'One row an ended attempt that did not complete its task, by day; executions has all.';
comment on column pgqueue.attempts.task_id is 'The task.';
comment on column pgqueue.attempts.attempt is 'Which attempt; with task_id the lease it held.';
comment on column pgqueue.attempts.worker_id is 'Who ran it.';
comment on column pgqueue.attempts.started_at is 'When its handler started.';
comment on column pgqueue.attempts.finished_at is 'When its end was recorded.';
comment on column pgqueue.attempts.outcome is 'failed, timed_out, cancelled, lost (with its worker), released (by a stopping worker) or snoozed.';
comment on column pgqueue.attempts.error_type is 'The class of the error.';
comment on column pgqueue.attempts.error_message is 'Its message, at most 64 KiB.';
comment on column pgqueue.attempts.traceback is 'Where it was raised, at most 64 KiB.';

do $$
declare
    v_day text;
begin
    for v_day in
        select right(c.relname, 8)
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'pgqueue.executions'::regclass
    loop
        execute format(
            'create table pgqueue.%I partition of pgqueue.attempts for values from (%L) to (%L)',
            'attempts_' || v_day, v_day || ' 00:00:00+00', to_char(to_date(v_day, 'YYYYMMDD') + 1, 'YYYYMMDD') || ' 00:00:00+00'
        );
    end loop;
end $$;

insert into pgqueue.attempts (task_id, attempt, worker_id, started_at, finished_at, outcome, error_type, error_message, traceback)
select e.task_id, e.attempt, e.worker_id, e.started_at, e.finished_at, e.outcome, e.error_type, e.error_message, e.traceback
from pgqueue.executions e
where e.outcome <> 'completed';

drop function if exists pgqueue.get_executions(bigint);
drop table pgqueue.executions;

-- Days that had been detached and were still to be dropped.
do $$
declare
    v_name text;
begin
    for v_name in
        select c.relname
        from pg_catalog.pg_class c
        where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'r' and c.relname ~ '^executions_[0-9]{8}$'
    loop
        execute format('drop table pgqueue.%I', v_name);
    end loop;
end $$;
