-- Four roles, applied last. Nothing is granted to PUBLIC; functions that write are SECURITY DEFINER with
-- an empty search_path, so that a role needs no rights on the tables behind them. Roles that are there
-- are left alone: whoever migrates needs the right to create roles only where one is missing.

do $$
declare
    v_role text;
begin
    foreach v_role in array array['pgqueue_submitter', 'pgqueue_worker', 'pgqueue_reader', 'pgqueue_admin'] loop
        continue when exists (select from pg_catalog.pg_roles r where r.rolname = v_role);
        begin
            execute format('create role %I nologin', v_role);
        exception
            when duplicate_object or unique_violation then null;
        end;
    end loop;
    foreach v_role in array array['pgqueue_worker', 'pgqueue_admin'] loop
        if not pg_catalog.pg_has_role(v_role, 'pgqueue_submitter', 'member') then
            execute format('grant pgqueue_submitter to %I', v_role);
        end if;
    end loop;
end $$;

revoke all on schema pgqueue from public;
revoke all on all tables in schema pgqueue from public;
revoke all on all sequences in schema pgqueue from public;
revoke all on all functions in schema pgqueue from public;

grant usage on schema pgqueue to pgqueue_submitter, pgqueue_worker, pgqueue_reader, pgqueue_admin;

grant insert (task_type, queue_name, priority, payload, max_retries, timeout, run_at, unique_key, user_id, project_id, metadata, parent_id)
on pgqueue.tasks to pgqueue_submitter;
grant select (id) on pgqueue.tasks to pgqueue_submitter;
grant execute on function
pgqueue._now(),
pgqueue.submit_task(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text, bigint),
pgqueue.submit(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text, bigint),
pgqueue.submit_or_get(text, jsonb, text, int, int, int, timestamptz, text, text, text, jsonb, text, bigint),
pgqueue.submit_many(jsonb),
pgqueue.get_progress(bigint)
to pgqueue_submitter;

grant select on all tables in schema pgqueue to pgqueue_reader, pgqueue_worker, pgqueue_admin;
revoke select on pgqueue.metric_totals, pgqueue.metric_attempts, pgqueue.api_keys, pgqueue.api_key_usage, pgqueue.idempotency_keys, pgqueue.audit_log
from pgqueue_reader, pgqueue_worker, pgqueue_admin;
grant execute on function
pgqueue._now(),
pgqueue._partition_name(text, date),
pgqueue._lanes(text),
pgqueue._live_counts(text, int),
pgqueue._keeps(interval, interval, interval),
pgqueue._days_overdue(interval),
pgqueue.get_task(bigint),
pgqueue.get_progress(bigint),
pgqueue.get_executions(bigint),
pgqueue.get_logs(bigint, bigint, int),
pgqueue.get_retryable_tasks(int, text),
pgqueue.list_tasks(text, text, text, text, text, timestamptz, timestamptz, int, bigint, bigint, bigint),
pgqueue.count_tasks(text, text, text, text, text, timestamptz, timestamptz, int, bigint),
pgqueue.list_cursor(text, text, text, text, text, timestamptz, timestamptz, bigint, bigint),
pgqueue.queue_stats(text),
pgqueue.task_statistics(timestamptz, timestamptz, text[]),
pgqueue.task_series(timestamptz, timestamptz, text, text, text, text[]),
pgqueue.why_waiting(bigint),
pgqueue.get_schedule(text),
pgqueue.list_schedules(int, text, text[]),
pgqueue.get_schedule_ticks(text, int, timestamptz),
pgqueue.scheduler_stats(text[]),
pgqueue.preview_operation(text, jsonb, int),
pgqueue.list_operations(int, bigint),
pgqueue.schedules_due_in(),
pgqueue.task_queue(bigint),
pgqueue.list_tasks_in(text[], text, text, text, text, timestamptz, timestamptz, int, bigint, bigint, bigint),
pgqueue.list_cursor_in(text[], text, text, text, text, timestamptz, timestamptz, bigint, bigint),
pgqueue.count_tasks_in(text[], text, text, text, text, timestamptz, timestamptz, bigint),
pgqueue.search_tasks(text[], text, text, text, text, timestamptz, timestamptz, text[], text, text, bigint, int, int, bigint),
pgqueue.ended_by_type(timestamptz, timestamptz, text[]),
pgqueue.relation_sizes(),
pgqueue.server_facts(),
pgqueue.count_older(interval),
pgqueue.plan_cleanup(interval),
pgqueue.follow(uuid, text, bigint, text, int),
pgqueue.keep_following(uuid, int),
pgqueue.unfollow(uuid, text, bigint, text),
pgqueue.fence(),
pgqueue.is_clear(text),
pgqueue.idle(text, text)
to pgqueue_reader, pgqueue_worker, pgqueue_admin;

grant execute on function
pgqueue.register_worker(text, int, text[], jsonb, double precision, text),
pgqueue.heartbeat(bigint, int, int[], jsonb),
pgqueue.stop_worker(bigint),
pgqueue.rescue(),
pgqueue.maintain(int),
pgqueue._fold_statistics(),
pgqueue._folded_before(),
pgqueue._make_partitions(int),
pgqueue._partitions_before(timestamptz),
pgqueue.set_wait(bigint, text, boolean),
pgqueue.hand_over(text),
pgqueue.claim(bigint, text, int, int, int[], timestamptz[], bigint[], interval, int[]),
pgqueue.finish(bigint[], int[], bigint[], jsonb[], jsonb[], boolean),
pgqueue.update_progress(bigint, int, text, text, int, int, int),
pgqueue.set_task_result(bigint, jsonb, int),
pgqueue.report_progress(jsonb),
pgqueue.write_logs(jsonb),
pgqueue.due_schedules(int, text),
pgqueue.fire_schedules(jsonb),
pgqueue.release_ticks(),
pgqueue.step_abandoned(int),
pgqueue.create_queue(text, int, int, int, interval, interval, interval),
pgqueue._drop_days(text[]),
pgqueue.begin_retention(interval, interval, interval, interval),
pgqueue.end_retention(timestamptz),
pgqueue.expire(date, bigint, interval, interval, interval, boolean, int)
to pgqueue_worker, pgqueue_admin;

grant insert (
    name, task_type, cron_expr, payload, queue_name, time_zone, priority, max_retries, timeout, user_id, project_id, metadata,
    missed, catch_up_window, overlap, jitter, starts_at, ends_at, max_runs, is_active
),
update (
    name, task_type, cron_expr, payload, queue_name, time_zone, priority, max_retries, timeout, user_id, project_id, metadata,
    missed, catch_up_window, overlap, jitter, starts_at, ends_at, max_runs, is_active, pause_reason
),
delete on pgqueue.schedules to pgqueue_admin;
grant execute on function
pgqueue.create_schedule(
    text, text, text, jsonb, text, text, int, int, int, text, text, jsonb, text, int, text, int, timestamptz, timestamptz, int, boolean, text
),
pgqueue.update_schedule(text, jsonb),
pgqueue.pause_schedule(text, text),
pgqueue.resume_schedule(text),
pgqueue.delete_schedule(text),
pgqueue.run_schedule_now(text),
pgqueue.backfill_schedule(text, timestamptz[], timestamptz, boolean),
pgqueue.start_operation(text, jsonb, text, text),
pgqueue.step_operation(bigint, int),
pgqueue.cancel_operation(bigint),
pgqueue.cancel_task(bigint, text),
pgqueue.retry_task(bigint),
pgqueue.delete_task(bigint),
pgqueue.pause_queue(text, text),
pgqueue.resume_queue(text),
pgqueue.delete_queue(text),
pgqueue.request_stop(bigint),
pgqueue.pause_worker(bigint, text),
pgqueue.resume_worker(bigint),
pgqueue.cleanup(interval),
pgqueue.create_api_key(text, text, bytea, text[], text[], int, timestamptz),
pgqueue.revoke_api_key(text),
pgqueue.list_api_keys(),
pgqueue.has_api_keys(),
pgqueue.authenticate(text, bytea, text, boolean),
pgqueue.authenticate_session(text, bigint, bytea, text),
pgqueue.audit(text, text, text, text, bigint, jsonb),
pgqueue.list_audit(int, bigint),
pgqueue.begin_idempotent(bigint, text, bytea, double precision),
pgqueue.keep_answer(bigint, text, int, text, text),
pgqueue.forget_access(interval),
pgqueue.metrics()
to pgqueue_admin;
