-- Pending tasks become running. The only statement that starts an attempt.

-- Walks the lanes of a queue from the highest priority, each from where this worker's last claim ended
-- (its cursor) less p_behind, because run_at order is not commit order; p_behind null sweeps from the start
-- (see _lanes). A cursor that is five seconds behind the clock has passed no submit that was open for less: only sweeps
-- look behind it (p_behind becomes 0, and null stays null).
-- The update changes no indexed column, so it is HOT. The plan is generic from the first call and index-only
-- by construction: index order is claim order, and array(…) runs once.
-- created_at is null where it equals run_at, which spares most tasks the cost of a time as text.
-- p_done are earlier claims of this worker of which nothing runs any more.
-- Whether the worker is paused is read with the lock on its row, after what is due was locked: it costs nothing, and
-- no claim is committed after the pause.
-- Lock order: pending tasks by SKIP LOCKED, then the worker's row, then new rows only. Who holds the row of a
-- worker waits for what that worker runs, never for what is pending. A look that finds nothing writes nothing.
create or replace function pgqueue.claim(
    p_worker_id bigint,
    p_queue_name text,
    p_limit int,
    p_claim_no int,
    p_ranks int[] default '{}',
    p_run_ats timestamptz[] default '{}',
    p_ids bigint[] default '{}',
    p_behind interval default null,
    p_done int[] default '{}'
) returns table (
    id bigint, attempt int, rank int, run_at text, task_type text, payload text, timeout int, max_retries int,
    failures int, crashes int, created_at text, unique_key text, user_id text, project_id text, metadata text
)
language plpgsql volatile security definer
set search_path = '' set plan_cache_mode = force_generic_plan
set jit = off set enable_seqscan = off set enable_bitmapscan = off
as $$
#variable_conflict use_column
declare
    v_now timestamptz := pgqueue._now();
    v_ids bigint[];
    v_is_paused boolean := false;
begin
    if p_done <> '{}' then
        -- By its bounds, which the index takes for sure: with the array alone it may walk past all that were ever deleted.
        delete from pgqueue.claims c
        where c.worker_id = p_worker_id
        and c.claim_no between (select min(d.claim_no) from unnest(p_done) as d (claim_no)) and (select max(d.claim_no) from unnest(p_done) as d (claim_no))
        and c.claim_no = any(p_done);
    end if;
    if p_behind is null then
        perform pgqueue._find_lanes(p_queue_name);
    end if;
    v_ids := array(
        select due.id
        from (
            select
                l.rank,
                greatest(c.run_at - c.behind, l.due_from) as from_run_at,
                case when c.behind = '0' and c.run_at >= l.due_from then c.id else 0 end as from_id
            from pgqueue._lanes(p_queue_name) l
            left join (
                select u.rank, u.run_at, u.id, case when u.run_at < v_now - interval '5 seconds' then p_behind * 0 else p_behind end as behind
                from unnest(p_ranks, p_run_ats, p_ids) as u (rank, run_at, id)
            ) c on c.rank = l.rank
            order by l.rank
        ) lane
        cross join lateral (
            select t.id
            from pgqueue.tasks t
            where t.queue_name = p_queue_name
            and t.rank = lane.rank
            and t.waits_for = 0
            and t.status = 'pending'
            and (t.run_at, t.id) > (lane.from_run_at, lane.from_id)
            and t.run_at <= v_now
            order by t.run_at, t.id
            limit p_limit
            for update skip locked
        ) due
        where not exists (select from pgqueue.queues q where q.name = p_queue_name and q.paused_at is not null)
        limit p_limit
    );
    if v_ids = '{}' then
        perform from pgqueue.workers w where w.id = p_worker_id and w.lost_at is null;
    else
        select w.paused_at is not null into v_is_paused
        from pgqueue.workers w
        where w.id = p_worker_id and w.lost_at is null
        for key share;
    end if;
    if not found then
        perform pgqueue._lease_lost(p_worker_id);
    elsif v_ids = '{}' or v_is_paused then
        return;
    end if;
    insert into pgqueue.claims (worker_id, claim_no, ids, claimed_at) values (p_worker_id, p_claim_no, v_ids, v_now);
    return query
    with claimed as (
        update pgqueue.tasks t
        set status = 'running', attempt = t.attempt + 1, worker_id = p_worker_id, claim_no = p_claim_no, started_at = v_now
        where t.id = any(v_ids)
        returning t.*
    )
    select
        c.id, c.attempt, c.rank, c.run_at::text, c.task_type::text, c.payload::text, c.timeout::int, c.max_retries::int,
        c.failures, c.crashes, nullif(c.created_at, c.run_at)::text, c.unique_key::text, c.user_id::text, c.project_id::text, c.metadata::text
    from claimed c
    order by c.rank, c.run_at, c.id;
    if exists (select from pgqueue.listeners) then
        perform pgqueue._publish_status(v_ids);
    end if;
end $$;

comment on function pgqueue.claim(bigint, text, int, int, int[], timestamptz[], bigint[], interval, int[]) is
'Starts an attempt of up to p_limit due tasks, highest priority and earliest run_at first, and returns them in that order.';

create or replace function pgqueue._lease_lost(p_worker_id bigint) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU301',
        message = format('worker %s is not registered or was declared lost', p_worker_id),
        detail = jsonb_build_object('worker_id', p_worker_id),
        hint = 'Its tasks were given to others. It must stop them and register anew.';
end $$;

comment on function pgqueue._lease_lost(bigint) is 'Raises QU301.';

-- The lanes of a queue, each with the moment from which its tasks are looked for: nothing that waits is due before it,
-- as of swept_at. Older notes are not believed, nor those of a clock that was set back. Inlined by whoever asks.
create or replace function pgqueue._lanes(p_queue_name text) returns table (rank int, due_from timestamptz, swept_at timestamptz)
language sql stable
as $$
    select distinct l.rank, coalesce(f.due_from, '-infinity'), f.swept_at
    from pgqueue.lanes l
    left join pgqueue.lane_floors f
    on f.queue_name = l.queue_name and f.rank = l.rank and f.swept_at between pgqueue._now() - interval '2 minutes' and pgqueue._now()
    where l.queue_name = p_queue_name
$$;

comment on function pgqueue._lanes(text) is
'The priorities of a queue, negated; where their tasks begin (-infinity: anywhere), and when that was found (null: it was not).';

-- Lanes that no trigger noted (rows that came by replication or restore), between those that are known: the entries of a
-- lane itself may be many, and all dead.
create or replace function pgqueue._find_lanes(p_queue_name text) returns void
language plpgsql volatile
set jit = off set enable_seqscan = off set enable_bitmapscan = off set plan_cache_mode = force_generic_plan
as $$
begin
    loop
        insert into pgqueue.lanes (queue_name, rank)
        select p_queue_name, next.rank
        from (
            select k.rank as above, lead(k.rank, 1, 32769) over (order by k.rank) as below
            from (
                select -32769 as rank
                union
                select l.rank from pgqueue.lanes l where l.queue_name = p_queue_name
            ) k
        ) gap
        cross join lateral (
            select t.rank
            from pgqueue.tasks t
            where t.queue_name = p_queue_name and t.waits_for = 0 and t.rank > gap.above and t.rank < gap.below
            order by t.rank
            limit 1
        ) next;
        exit when not found;
    end loop;
end $$;

comment on function pgqueue._find_lanes(text) is 'Notes the lanes of a queue that nobody noted.';
