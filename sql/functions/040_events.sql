-- Events for those who follow a task, a queue or everything. Nobody follows: nothing is sent.

-- Sends events as JSON arrays below the 8,000 bytes of a notification, many to a message.
create or replace function pgqueue._publish(p_events jsonb[]) returns void
language plpgsql volatile
as $$
declare
    v_message text;
begin
    for v_message in
        select '[' || string_agg(sized.event, ',') || ']'
        from (
            select e.event::text as event, sum(octet_length(e.event::text) + 1) over (order by e.nr) / 3500 as message_no
            from unnest(p_events) with ordinality as e (event, nr)
        ) sized
        group by sized.message_no
        order by sized.message_no
    loop
        perform pgqueue._notify('pgqueue_events', v_message);
    end loop;
end $$;

comment on function pgqueue._publish(jsonb[]) is 'Notifies pgqueue_events; each event must be below 4,000 bytes.';

-- Tells the followers of these tasks where they stand now.
create or replace function pgqueue._publish_status(p_ids bigint[]) returns void
language plpgsql volatile
as $$
begin
    perform pgqueue._publish(array(
        select jsonb_build_object(
            'kind', 'status', 'task_id', t.id, 'status', t.status, 'attempt', t.attempt,
            'queue_name', t.queue_name, 'task_type', t.task_type
        )
        from pgqueue._states(p_ids) t
        where exists (
            select from pgqueue.listeners l
            where l.fresh_until > pgqueue._now()
            and (l.scope = 'all' or l.task_id = t.id or l.queue_name = t.queue_name)
        )
    ));
end $$;

comment on function pgqueue._publish_status(bigint[]) is 'Publishes the state of the tasks that somebody follows.';

-- Where tasks stand, live or finished, in one statement: none is missed on its way between the tables.
create or replace function pgqueue._states(p_ids bigint[])
returns table (id bigint, status text, attempt int, queue_name text, task_type text)
language sql stable
set jit = off set enable_seqscan = off
as $$
    select t.id, t.status, t.attempt, t.queue_name, t.task_type
    from pgqueue.tasks t
    where t.id = any(p_ids)
    union all
    select f.id, f.status, f.attempt, f.queue_name, f.task_type
    from pgqueue.finished_tasks f
    where f.id = any(p_ids)
$$;

comment on function pgqueue._states(bigint[]) is 'The state of live and finished tasks.';

-- A subscriber listens, calls this and commits, takes a fence(), and reads the state until the fence
-- is clear: then no event can have slipped between its reading and its listening.
create or replace function pgqueue.follow(p_hub_id uuid, p_scope text, p_task_id bigint default 0, p_queue_name text default '', p_seconds int default 60)
returns void
language sql volatile security definer set search_path = ''
as $$
    insert into pgqueue.listeners as l (hub_id, scope, task_id, queue_name, fresh_until)
    values (p_hub_id, p_scope, p_task_id, p_queue_name, pgqueue._now() + make_interval(secs => p_seconds))
    on conflict (hub_id, scope, task_id, queue_name) do update set fresh_until = excluded.fresh_until
$$;

comment on function pgqueue.follow(uuid, text, bigint, text, int) is 'Asks for the events of a task, a queue or everything, for so many seconds.';

create or replace function pgqueue.keep_following(p_hub_id uuid, p_seconds int default 60) returns void
language sql volatile security definer set search_path = ''
as $$
    update pgqueue.listeners
    set fresh_until = pgqueue._now() + make_interval(secs => p_seconds)
    where hub_id = p_hub_id
$$;

comment on function pgqueue.keep_following(uuid, int) is 'Renews everything that a hub follows.';

create or replace function pgqueue.unfollow(p_hub_id uuid, p_scope text default null, p_task_id bigint default 0, p_queue_name text default '')
returns void
language sql volatile security definer set search_path = ''
as $$
    delete from pgqueue.listeners
    where hub_id = p_hub_id
    and (p_scope is null or (scope = p_scope and task_id = p_task_id and queue_name = p_queue_name))
$$;

comment on function pgqueue.unfollow(uuid, text, bigint, text) is 'Ends one subscription of a hub, or all of them.';
