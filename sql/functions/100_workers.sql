-- A worker process: it registers, is heard every few seconds, and is declared lost when it is not.

create or replace function pgqueue.register_worker(
    p_hostname text, p_pid int, p_queues text[], p_concurrency jsonb default '{}', p_lease double precision default 30, p_version text default null
) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_id bigint;
begin
    insert into pgqueue.workers (hostname, pid, queues, concurrency, lease, version, started_at, heartbeat_at)
    values (p_hostname, p_pid, p_queues, p_concurrency, pgqueue._seconds(p_lease), p_version, v_now, v_now)
    returning id into v_id;
    return v_id;
end $$;

comment on function pgqueue.register_worker(text, int, text[], jsonb, double precision, text) is 'Enters a worker process and returns its id, which is never used again.';

drop function if exists pgqueue.heartbeat(bigint, int, int[], jsonb);

-- The worker is alive and knows the claims p_open, up to p_last_claim. Claims of its that it does not know
-- were lost on the way back: what still runs of them is released at no cost. Tells whether it was declared
-- lost, whether it shall stop or is paused, and which of its tasks shall be cancelled.
-- Lock order: the worker's row, then tasks by SKIP LOCKED: nobody who holds a task can silence a worker.
create or replace function pgqueue.heartbeat(
    p_worker_id bigint, p_last_claim int default null, p_open_claims int[] default null, p_status jsonb default null
) returns table (is_lost boolean, stop_requested boolean, is_paused boolean, cancel_ids bigint[])
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_unknown int[] := array(
        select c.claim_no
        from pgqueue.claims c
        where c.worker_id = p_worker_id and c.claim_no <= p_last_claim and not c.claim_no = any(p_open_claims)
    );
begin
    update pgqueue.workers w
    set heartbeat_at = pgqueue._now(), status = coalesce(p_status, w.status),
        claims_from = coalesce(
            (select min(k.claim_no) from unnest(p_open_claims || v_unknown) as k (claim_no)),
            case when p_open_claims is not null then p_last_claim + 1 end,
            w.claims_from
        )
    where w.id = p_worker_id and w.lost_at is null
    returning w.stop_requested_at is not null, w.paused_at is not null into stop_requested, is_paused;
    is_lost := not found;
    if not is_lost then
        perform pgqueue._renew_waits(p_worker_id);
        perform pgqueue._end_claims(p_worker_id, v_unknown, '{"outcome": "released"}', false);
    end if;
    cancel_ids := array(
        select t.id
        from pgqueue.claims c
        join pgqueue.tasks t on t.id = any(c.ids)
        where c.worker_id = p_worker_id
        and t.worker_id = p_worker_id
        and t.cancel_requested_at is not null
    );
    return next;
end $$;

comment on function pgqueue.heartbeat(bigint, int, int[], jsonb) is 'Renews the lease of a worker, releases claims whose answer it never got, and brings its orders.';

-- Ends what still runs of these claims and forgets the claims. A claim with a task that somebody else holds
-- at this moment (unless p_wait) is kept, for the next time.
create or replace function pgqueue._end_claims(p_worker_id bigint, p_claim_nos int[], p_failure jsonb, p_wait boolean) returns int
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_ids bigint[];
    v_attempts int[];
    v_elapsed bigint[];
    v_left bigint[] := '{}';
begin
    if p_claim_nos = '{}' then
        return 0;
    end if;
    select array_agg(r.id), array_agg(r.attempt), array_agg((extract(epoch from pgqueue._now() - r.started_at) * 1000000)::bigint)
    into v_ids, v_attempts, v_elapsed
    from (
        select distinct t.id, t.attempt, t.started_at
        from pgqueue.claims c
        join pgqueue.tasks t on t.id = any(c.ids)
        where c.worker_id = p_worker_id
        and c.claim_no = any(p_claim_nos)
        and t.status = 'running'
        and t.worker_id = p_worker_id
        and t.claim_no = c.claim_no
    ) r;
    if v_ids is not null then
        v_left := pgqueue.finish(v_ids, v_attempts, v_elapsed, null, array_fill(p_failure, array[cardinality(v_ids)]), p_wait);
    end if;
    delete from pgqueue.claims c where c.worker_id = p_worker_id and c.claim_no = any(p_claim_nos) and not c.ids && v_left;
    return coalesce(cardinality(v_ids), 0) - cardinality(v_left);
end $$;

comment on function pgqueue._end_claims(bigint, int[], jsonb, boolean) is 'Ends what still runs of a worker''s claims with one outcome; returns how many tasks.';

-- Workers that were not heard for their lease lose it, and their tasks go on elsewhere. Never decided by
-- how long a task runs. Locking the worker's row first shuts out its own claims and heartbeats. Tasks that
-- somebody else holds at this moment are taken by the next rescue.
create or replace function pgqueue.rescue() returns table (worker_id bigint, rescued int)
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v record;
    v_queues text[];
begin
    for v in
        select w.id, w.hostname, w.pid, w.heartbeat_at
        from pgqueue.workers w
        where (w.lost_at is null and w.heartbeat_at + w.lease < pgqueue._now())
        or (w.lost_at is not null and exists (select from pgqueue.claims c where c.worker_id = w.id))
        order by w.id
        for update skip locked
    loop
        update pgqueue.workers w set lost_at = coalesce(w.lost_at, pgqueue._now()) where w.id = v.id;
        worker_id := v.id;
        rescued := pgqueue._end_claims(
            v.id,
            array(select c.claim_no from pgqueue.claims c where c.worker_id = v.id),
            jsonb_build_object(
                'outcome', 'lost', 'error_type', 'WorkerLost',
                'error_message', format('worker %s (%s, pid %s) was not heard since %s', v.id, v.hostname, v.pid, v.heartbeat_at)
            ),
            false
        );
        with gone as (delete from pgqueue.waits w where w.worker_id = v.id returning w.queue_name)
        select array_agg(g.queue_name) into v_queues from gone g;
        perform pgqueue._wake(q.queue_name) from unnest(v_queues) as q (queue_name);
        return next;
    end loop;
    -- A worker's row that was deleted by hand leaves claims that nobody would ask for.
    for v in
        select c.worker_id, array_agg(c.claim_no) as claim_nos
        from pgqueue.claims c
        where not exists (select from pgqueue.workers w where w.id = c.worker_id)
        group by c.worker_id
        order by c.worker_id
    loop
        worker_id := v.worker_id;
        rescued := pgqueue._end_claims(
            v.worker_id,
            v.claim_nos,
            jsonb_build_object(
                'outcome', 'lost', 'error_type', 'WorkerLost', 'error_message', format('worker %s is not registered', v.worker_id)
            ),
            false
        );
        return next;
    end loop;
    delete from pgqueue.workers w
    where w.lost_at < pgqueue._now() - interval '1 hour'
    and not exists (select from pgqueue.claims c where c.worker_id = w.id);
end $$;

comment on function pgqueue.rescue() is 'Takes the tasks of workers that are not heard any more; returns those workers.';

-- A worker ends in order: what it still holds is released at no cost. It stops attending before that, so
-- that the sleepers are woken.
create or replace function pgqueue.stop_worker(p_worker_id bigint) returns int
language plpgsql volatile security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_queues text[];
    v_released int;
begin
    perform from pgqueue.workers w where w.id = p_worker_id for update;
    with gone as (delete from pgqueue.waits w where w.worker_id = p_worker_id returning w.queue_name, w.attending)
    select array_agg(g.queue_name) into v_queues from gone g where g.attending;
    v_released := pgqueue._end_claims(
        p_worker_id, array(select c.claim_no from pgqueue.claims c where c.worker_id = p_worker_id), '{"outcome": "released"}', true
    );
    perform pgqueue._wake(q.queue_name) from unnest(v_queues) as q (queue_name);
    delete from pgqueue.workers w where w.id = p_worker_id;
    return v_released;
end $$;

comment on function pgqueue.stop_worker(bigint) is 'Releases what a worker holds and strikes it off; returns how many tasks were released.';

-- For operators: the worker hears of it with its next heartbeat at the latest.
create or replace function pgqueue.request_stop(p_worker_id bigint) returns void
language plpgsql volatile security definer set search_path = ''
as $$
begin
    update pgqueue.workers w set stop_requested_at = coalesce(w.stop_requested_at, pgqueue._now()) where w.id = p_worker_id;
    if not found then
        perform pgqueue._worker_not_found(p_worker_id);
    end if;
    perform pgqueue._order('stop', p_worker_id);
end $$;

comment on function pgqueue.request_stop(bigint) is 'Asks a worker to drain and stop.';

-- Sleepers are woken whoever else attends: he may be pausing as well, and one that was paused was not counted
-- among them, so it looks whatever it was told meanwhile. No queues: there is no such worker.
create or replace function pgqueue._pause_changed(p_kind text, p_worker_id bigint, p_queues text[]) returns void
language plpgsql volatile
as $$
begin
    if p_queues is null then
        perform pgqueue._worker_not_found(p_worker_id);
    end if;
    perform pgqueue._renew_waits(p_worker_id);
    perform pgqueue._order(p_kind, p_worker_id);
    perform pgqueue._notify('pgqueue_wake', q.queue_name) from unnest(p_queues) as q (queue_name);
end $$;

comment on function pgqueue._pause_changed(text, bigint, text[]) is 'Tells a worker that it is paused or resumed, and wakes its queues.';

-- It ends what runs, is heard as before, and claims nothing, however late it hears of this: FOR UPDATE waits for claims
-- under way, and later ones see the pause.
-- Lock order: only the worker's row, which a claim locks after its tasks.
create or replace function pgqueue.pause_worker(p_worker_id bigint, p_reason text default null) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_queues text[];
begin
    perform from pgqueue.workers w where w.id = p_worker_id for update;
    update pgqueue.workers w
    set paused_at = coalesce(w.paused_at, pgqueue._now()), pause_reason = coalesce(left(p_reason, 1000), w.pause_reason)
    where w.id = p_worker_id and w.lost_at is null
    returning w.queues into v_queues;
    perform pgqueue._pause_changed('pause', p_worker_id, v_queues);
end $$;

comment on function pgqueue.pause_worker(bigint, text) is
'A worker claims nothing more until it is resumed; what it runs goes on. A worker that starts anew is not paused.';

create or replace function pgqueue.resume_worker(p_worker_id bigint) returns void
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_queues text[];
begin
    update pgqueue.workers w set paused_at = null, pause_reason = null
    where w.id = p_worker_id and w.lost_at is null
    returning w.queues into v_queues;
    perform pgqueue._pause_changed('resume', p_worker_id, v_queues);
end $$;

comment on function pgqueue.resume_worker(bigint) is 'A paused worker goes on, at once.';

create or replace function pgqueue._order(p_kind text, p_worker_id bigint) returns void
language sql volatile
as $$
    select pgqueue._notify('pgqueue_control', jsonb_build_object('kind', p_kind, 'worker_id', p_worker_id)::text)
$$;

comment on function pgqueue._order(text, bigint) is 'Makes a worker''s next heartbeat come at once, which brings it its orders.';

create or replace function pgqueue._worker_not_found(p_worker_id bigint) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU106',
        message = format('there is no worker %s', p_worker_id),
        detail = jsonb_build_object('worker_id', p_worker_id),
        hint = 'select * from pgqueue.worker_overview shows those there are.';
end $$;

comment on function pgqueue._worker_not_found(bigint) is 'Raises QU106.';
