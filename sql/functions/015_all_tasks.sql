-- Live and finished tasks as one. A reader that must not miss a task on its way between the two reads
-- this view in ONE statement.
create or replace view pgqueue.all_tasks as
select
    t.id, t.task_type, t.queue_name, t.priority, t.payload, t.status, t.max_retries, t.timeout, t.run_at, t.unique_key,
    t.user_id, t.project_id, t.metadata, t.attempt, t.failures, t.crashes, t.worker_id, t.created_at, t.started_at,
    null::timestamptz as finished_at, t.result, t.error, null::jsonb as progress, t.cancel_requested_at, t.parent_id
from pgqueue.tasks t
union all
select
    f.id, f.task_type, f.queue_name, f.priority, f.payload, f.status, f.max_retries, f.timeout, f.run_at, f.unique_key,
    f.user_id, f.project_id, f.metadata, f.attempt, f.failures, f.crashes, f.worker_id, f.created_at, f.started_at,
    f.finished_at, f.result, f.error, f.progress, null::timestamptz as cancel_requested_at, f.parent_id
from pgqueue.finished_tasks f;

comment on view pgqueue.all_tasks is 'Every task that is kept, live or finished.';

create or replace view pgqueue.executions as
select a.task_id, a.attempt, a.worker_id, a.started_at, a.finished_at, a.outcome, a.error_type, a.error_message, a.traceback
from pgqueue.attempts a
union all
select f.id, f.attempt, f.worker_id, f.started_at, f.finished_at, 'completed', null, null, null
from pgqueue.finished_tasks f
where f.status = 'completed';

comment on view pgqueue.executions is
'One row an ended attempt; outcome is completed, failed, timed_out, cancelled, lost (with its worker), released (by a stopping worker) or snoozed.';
