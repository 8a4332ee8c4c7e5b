-- An attempt that completed its task is told by the finished task itself: who ran it, from when to when. Only
-- the others have rows of their own, and pgqueue.executions, now a view, shows both (docs/decisions/0020).

create table pgqueue.attempts (
    like pgqueue.executions including comments,
    constraint attempts_outcome check (outcome in ('failed', 'timed_out', 'cancelled', 'lost', 'released', 'snoozed'))
) partition by range (finished_at);

create index attempts_task on pgqueue.attempts (task_id, attempt);

comment on table pgqueue.attempts is 'One row an ended attempt that did not complete its task, by day; executions has all.';
comment on column pgqueue.attempts.outcome is 'failed, timed_out, cancelled, lost (with its worker), released (by a stopping worker) or snoozed.';

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
