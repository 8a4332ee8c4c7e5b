-- Speak only when nobody looks. PostgreSQL commits transactions that notify one at a time, so a
-- notification is sent only if some worker sleeps on this queue and none is awake there.

-- Looks at who waits with a snapshot taken after the caller's transaction has its id (VOLATILE: each
-- statement in it takes a new one). Under REPEATABLE READ the snapshot may be older than the sleeper's
-- row: there it always notifies.
create or replace function pgqueue._wake(p_queue_name text) returns void
language plpgsql volatile
as $$
begin
    if (select bool_and(not w.attending) from pgqueue.waits w where w.queue_name = p_queue_name and w.fresh_until > pgqueue._now())
    or current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        perform pgqueue._notify('pgqueue_wake', p_queue_name);
    end if;
end $$;

comment on function pgqueue._wake(text) is 'Tells sleeping workers that a queue has something to do.';

-- A notification is a hint. It stays unsaid where the caller silenced it (PREPARE TRANSACTION refuses
-- after one) and while PostgreSQL's own notification queue is half full, because a full one fails the commit.
create or replace function pgqueue._notify(p_channel text, p_payload text) returns void
language plpgsql volatile
as $$
begin
    if coalesce(current_setting('pgqueue.notify', true), '') <> 'off' and pg_notification_queue_usage() < 0.5 then
        perform pg_notify(p_channel, p_payload);
    end if;
end $$;

comment on function pgqueue._notify(text, text) is 'pg_notify, unless silenced or in danger of filling the notification queue.';

-- How long a worker's word counts that it has free slots: as long as its lease, and never while it is paused.
create or replace function pgqueue._fresh_until(p_worker pgqueue.workers) returns timestamptz
language sql stable
as $$
    select case when p_worker.lost_at is null and p_worker.paused_at is null then p_worker.heartbeat_at + p_worker.lease else '-infinity' end
$$;

comment on function pgqueue._fresh_until(pgqueue.workers) is 'Until when a worker is counted among those who have free slots.';

create or replace function pgqueue._renew_waits(p_worker_id bigint) returns void
language sql volatile
as $$
    update pgqueue.waits w
    set fresh_until = pgqueue._fresh_until(k)
    from pgqueue.workers k
    where k.id = p_worker_id and w.worker_id = k.id and w.queue_name = any(k.queues)
$$;

comment on function pgqueue._renew_waits(bigint) is 'A worker was heard, paused or resumed: its word counts anew. The caller has locked its row.';

-- A worker says that it has free slots in a queue: attending (it looks by itself), waiting (it sleeps),
-- or null (it has none, or stops).
create or replace function pgqueue.set_wait(p_worker_id bigint, p_queue_name text, p_attending boolean) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    if p_attending is null then
        delete from pgqueue.waits w where w.queue_name = p_queue_name and w.worker_id = p_worker_id;
    else
        insert into pgqueue.waits as w (queue_name, worker_id, attending, fresh_until)
        select p_queue_name, k.id, p_attending, pgqueue._fresh_until(k) from pgqueue.workers k where k.id = p_worker_id for key share
        on conflict (queue_name, worker_id) do update set attending = excluded.attending, fresh_until = excluded.fresh_until
        where (w.attending, w.fresh_until) is distinct from (excluded.attending, excluded.fresh_until);
    end if;
end $$;

comment on function pgqueue.set_wait(bigint, text, boolean) is 'A worker attends a queue (true), sleeps on it (false) or has no free slot (null).';

-- One who attended and filled up hands over: whoever sleeps must look for itself. To be called in a
-- transaction after the one that took the row away.
create or replace function pgqueue.hand_over(p_queue_name text) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    perform pgqueue._wake(p_queue_name);
end $$;

comment on function pgqueue.hand_over(text) is 'Wakes the sleepers of a queue after its attendant has filled up.';

-- The fence of a sleeper, taken in a new transaction after its row is committed: once every transaction
-- with a lower id has ended (that wrote here: see _is_past), whoever might have looked before that row was there has
-- committed or gone.
create or replace function pgqueue.fence() returns text
language sql volatile
as $$ select pg_current_xact_id()::text $$;

comment on function pgqueue.fence() is 'A transaction id that every earlier submitter is below.';

-- An open transaction that only reads, or writes elsewhere, holds nobody up: whoever writes a row or locks one has a lock on
-- its table until it ends. Those that end while this looks have committed by the caller's next statement.
create or replace function pgqueue._is_past(p_fence xid8, p_table regclass default null) returns boolean
language plpgsql volatile
as $$
declare
    v_snapshot pg_snapshot := pg_current_snapshot();
begin
    return p_fence is not null and (pg_snapshot_xmin(v_snapshot) >= p_fence or not exists (
        select
        from pg_snapshot_xip(v_snapshot) as open (id)
        join pg_catalog.pg_locks own on own.locktype = 'transactionid' and own.transactionid = open.id::xid
        join pg_catalog.pg_locks held on held.virtualtransaction = own.virtualtransaction
        join pg_catalog.pg_class c on c.oid = held.relation
        where open.id < p_fence
        and held.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
        and held.mode <> 'AccessShareLock'
        and c.relnamespace = 'pgqueue'::regnamespace
        and c.oid = coalesce(p_table, c.oid)
    ));
end $$;

comment on function pgqueue._is_past(xid8, regclass) is
'Whether every transaction below a fence has ended that wrote or locked rows of a table of pgqueue (null: of any).';

-- Has everybody below the fence ended, and when is the next task due that is not due yet?
create or replace function pgqueue.idle(p_queue_name text, p_fence text)
returns table (is_clear boolean, due_in double precision)
language plpgsql volatile security definer
set search_path = '' set jit = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_now timestamptz := pgqueue._now();
begin
    return query
    select
        pgqueue._is_past(p_fence::xid8),
        extract(epoch from (
            select min(d.run_at)
            from (select distinct l.rank from pgqueue.lanes l where l.queue_name = p_queue_name) lane
            cross join lateral (
                select t.run_at
                from pgqueue.tasks t
                where t.queue_name = p_queue_name
                and t.rank = lane.rank
                and t.waits_for = 0
                and t.run_at > v_now
                order by t.run_at
                limit 1
            ) d
        ) - v_now)::double precision;
end $$;

comment on function pgqueue.idle(text, text) is 'Whether a fence is clear, and seconds until the next task of a queue falls due.';

create or replace function pgqueue.is_clear(p_fence text) returns boolean
language plpgsql volatile
as $$
begin
    return pg_snapshot_xmin(pg_current_snapshot()) >= p_fence::xid8;
end $$;

comment on function pgqueue.is_clear(text) is 'Whether every transaction below a fence has ended.';
