-- What the pages of the dashboard ask beyond what the other interfaces need. Each question is bounded.

-- A session is a key's selector, an end, and a mac over both whose secret is the hash of the key: nothing is
-- kept, every server with this database knows it, and it ends with its key. Two hashes, one within the
-- other, so that nobody can lengthen the message.
create or replace function pgqueue.authenticate_session(p_selector text, p_expires_at bigint, p_mac bytea, p_scope text)
returns table (key_id bigint, name text, scopes text[], queues text[])
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_hash bytea := (select k.secret_hash from pgqueue.api_keys k where k.selector = p_selector);
    v_message bytea := convert_to(format('pgqueue session %s %s', p_selector, p_expires_at), 'UTF8');
begin
    if v_hash is null or not pgqueue._is_same(sha256(v_hash || sha256(v_hash || v_message)), p_mac) then
        perform pgqueue._unauthenticated('this session is not known');
    elsif p_expires_at <= extract(epoch from pgqueue._now()) then
        perform pgqueue._unauthenticated('this session has expired');
    end if;
    return query select a.key_id, a.name, a.scopes, a.queues from pgqueue.authenticate(p_selector, v_hash, p_scope) a;
end $$;

comment on function pgqueue.authenticate_session(text, bigint, bytea, text) is
'Who holds a session, as authenticate for its key; p_expires_at in seconds since 1970.';

drop function if exists pgqueue.search_tasks(text[], text, text, text, text, timestamptz, timestamptz, text[], text, text, bigint, int, int);

-- The newest p_most tasks that match the plain filters are looked at for what is in payload and error. In each
-- queue the search has a lower end where it stopped; below the highest of them nothing is told, so that pages
-- have no gaps.
create or replace function pgqueue.search_tasks(
    p_queue_names text[] default null,
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_path text[] default null,
    p_value text default null,
    p_error text default null,
    p_before_id bigint default null,
    p_limit int default 50,
    p_most int default 5000,
    p_parent_id bigint default null,
    out tasks jsonb, out next_before_id bigint
)
language plpgsql stable security definer
set search_path = '' set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_wanted int := case when p_path is null and p_error is null then p_limit + 1 else p_most end;
    v_ids bigint[] := '{}';
    v_finished_ats timestamptz[] := '{}';
    v_end bigint;
    v_queue_name text;
    v_found record;
begin
    perform pgqueue._check_filter(p_status, p_limit, 0);
    foreach v_queue_name in array coalesce(p_queue_names, array[null::text]) loop
        select f.ids, f.finished_ats, f.stopped_before into v_found
        from pgqueue._find_tasks(
            v_queue_name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_before_id, v_wanted, 10000, p_parent_id
        ) f;
        v_ids := v_ids || v_found.ids;
        v_finished_ats := v_finished_ats || v_found.finished_ats;
        v_end := greatest(v_end, v_found.stopped_before, case when cardinality(v_found.ids) = v_wanted then v_found.ids[v_wanted] end);
    end loop;
    with shown as (
        select m.*, row_number() over (order by m.task_id desc) as nr
        from (
            select
                a.id as task_id, a.task_type, a.queue_name, a.priority, a.status, a.attempt, a.failures, a.max_retries, a.run_at,
                a.created_at, a.started_at, a.finished_at, left(a.error, 400) as error, a.user_id, a.project_id, a.worker_id,
                a.cancel_requested_at
            from unnest(v_ids, v_finished_ats) as u (id, finished_at)
            cross join lateral (
                select x.* from pgqueue.all_tasks x where x.id = u.id and x.finished_at = u.finished_at
                union all
                select x.* from pgqueue.all_tasks x where u.finished_at is null and x.id = u.id and x.finished_at is null
            ) a
            where (v_end is null or u.id >= v_end)
            and (p_path is null or a.payload #>> p_path = p_value)
            and (p_error is null or position(lower(p_error) in lower(a.error)) > 0)
            order by u.id desc
            limit p_limit + 1
        ) m
    )
    select
        coalesce(jsonb_agg(to_jsonb(s) - 'nr' || jsonb_build_object('progress', p.progress, 'message', left(p.message, 200)) order by s.task_id desc)
            filter (where s.nr <= p_limit), '[]'),
        case when count(*) > p_limit then min(s.task_id) filter (where s.nr <= p_limit) else v_end end
    into tasks, next_before_id
    from shown s
    left join pgqueue.task_progress p on p.task_id = s.task_id and s.status = 'running';
end $$;

comment on function pgqueue.search_tasks(
    text[], text, text, text, text, timestamptz, timestamptz, text[], text, text, bigint, int, int, bigint
) is 'One page of tasks as the dashboard lists them, newest id first, and where to go on: null where it saw all.';

create or replace function pgqueue.ended_by_type(p_from timestamptz, p_to timestamptz, p_queue_names text[] default null)
returns table (task_type text, completed bigint, failed bigint, cancelled bigint)
language plpgsql stable security definer set search_path = '' set jit = off
as $$
#variable_conflict use_column
begin
    perform pgqueue._check_window(p_from, p_to);
    return query
    select
        e.task_type,
        coalesce(sum(e.finished) filter (where e.status = 'completed'), 0)::bigint,
        coalesce(sum(e.finished) filter (where e.status = 'failed'), 0)::bigint,
        coalesce(sum(e.finished) filter (where e.status = 'cancelled'), 0)::bigint
    from pgqueue._ended(p_from, p_to, 'day') e
    where p_queue_names is null or e.queue_name = any(p_queue_names)
    group by e.task_type
    having sum(e.finished) > 0
    order by 3 desc, sum(e.finished) desc, e.task_type;
end $$;

comment on function pgqueue.ended_by_type(timestamptz, timestamptz, text[]) is
'What finished in a window, type by type, those with most failures first, then those with most tasks.';

create or replace function pgqueue.relation_sizes()
returns table (name text, partitions bigint, total_bytes bigint, live_rows bigint, dead_rows bigint, last_vacuum timestamptz)
language sql stable security definer set search_path = '' set jit = off
as $$
    select
        coalesce(p.relname, c.relname)::text, count(p.oid), sum(pg_total_relation_size(c.oid))::bigint,
        sum(s.n_live_tup)::bigint, sum(s.n_dead_tup)::bigint, max(greatest(s.last_vacuum, s.last_autovacuum))
    from pg_catalog.pg_class c
    join pg_catalog.pg_stat_user_tables s on s.relid = c.oid
    left join pg_catalog.pg_inherits i on i.inhrelid = c.oid
    left join pg_catalog.pg_class p on p.oid = i.inhparent
    where c.relnamespace = 'pgqueue'::regnamespace
    group by 1
    order by 3 desc, 1
$$;

comment on function pgqueue.relation_sizes() is 'How large the tables are, with their indexes, the partitions of one taken together.';

create or replace function pgqueue.server_facts()
returns table (
    server_version text, database_name text, database_bytes bigint, started_at timestamptz, connections bigint, max_connections int,
    oldest_transaction_s double precision, oldest_transaction_pid int, oldest_transaction_application text, notify_queue_usage double precision
)
language sql stable security definer set search_path = '' set jit = off
as $$
    select
        current_setting('server_version'), current_database()::text, pg_database_size(current_database()), pg_postmaster_start_time(),
        (select count(*) from pg_catalog.pg_stat_activity a where a.datname = current_database()), current_setting('max_connections')::int,
        o.seconds, o.pid, o.application_name, pg_notification_queue_usage()
    from (values (1)) as one
    left join lateral (
        select extract(epoch from clock_timestamp() - a.xact_start)::double precision as seconds, a.pid, a.application_name
        from pg_catalog.pg_stat_activity a
        where a.datname = current_database() and a.xact_start is not null and a.pid <> pg_backend_pid()
        order by a.xact_start
        limit 1
    ) o on true
$$;

comment on function pgqueue.server_facts() is 'The server, this database and its oldest transaction.';
