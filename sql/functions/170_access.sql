-- The HTTP interface asks who somebody is, writes down what they did, and remembers what it answered.

create or replace function pgqueue.create_api_key(
    p_name text,
    p_selector text,
    p_secret_hash bytea,
    p_scopes text[],
    p_queues text[] default null,
    p_rate_limit int default null,
    p_expires_at timestamptz default null
) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_id bigint;
begin
    if p_expires_at <= pgqueue._now() then
        raise exception using errcode = 'QU001',
            message = format('a key cannot expire in the past (%s)', p_expires_at),
            detail = jsonb_build_object('expires_at', p_expires_at),
            hint = 'Give a moment in the future, or none.';
    end if;
    insert into pgqueue.api_keys (name, selector, secret_hash, scopes, queues, rate_limit, expires_at)
    values (p_name, p_selector, p_secret_hash, p_scopes, p_queues, p_rate_limit, p_expires_at)
    on conflict (name) where revoked_at is null do nothing
    returning id into v_id;
    if v_id is null then
        raise exception using errcode = 'QU001',
            message = format('there is a key named %L already', p_name),
            detail = jsonb_build_object('name', p_name),
            hint = 'Choose another name, or revoke that key first.';
    end if;
    perform pgqueue.audit('key.create', p_name, p_detail => jsonb_build_object('key_id', v_id, 'scopes', p_scopes, 'queues', p_queues));
    return v_id;
end $$;

comment on function pgqueue.create_api_key(text, text, bytea, text[], text[], int, timestamptz) is
'Keeps a new key, of which it is told only the selector and the hash; returns its number.';

-- Named by its name, selector or number. Revoking what is revoked changes nothing.
create or replace function pgqueue.revoke_api_key(p_which text) returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_key pgqueue.api_keys;
begin
    select k.* into v_key
    from pgqueue.api_keys k
    where p_which in (k.name, k.selector, k.id::text)
    order by (k.revoked_at is null) desc, k.id desc
    limit 1
    for update;
    if not found then
        raise exception using errcode = 'QU104',
            message = format('there is no key %L', p_which),
            detail = jsonb_build_object('key', p_which),
            hint = 'pgqueue key list shows the keys; name one by its name, selector or number.';
    end if;
    if v_key.revoked_at is null then
        update pgqueue.api_keys k set revoked_at = pgqueue._now() where k.id = v_key.id;
        perform pgqueue.audit('key.revoke', v_key.name, p_detail => jsonb_build_object('key_id', v_key.id));
    end if;
    return v_key.id;
end $$;

comment on function pgqueue.revoke_api_key(text) is 'Refuses a key from now on; returns its number.';

create or replace function pgqueue.list_api_keys()
returns table (
    id bigint, name text, selector text, scopes text[], queues text[], rate_limit int,
    created_at timestamptz, expires_at timestamptz, revoked_at timestamptz, last_used_at timestamptz
)
language sql stable security definer set search_path = ''
as $$
    select k.id, k.name, k.selector, k.scopes, k.queues, k.rate_limit, k.created_at, k.expires_at, k.revoked_at, k.last_used_at
    from pgqueue.api_keys k
    order by k.id
$$;

comment on function pgqueue.list_api_keys() is 'The keys without their hashes, in the order in which they were made.';

create or replace function pgqueue.has_api_keys() returns boolean
language sql stable security definer set search_path = ''
as $$
    select exists (
        select from pgqueue.api_keys k
        where k.revoked_at is null and (k.expires_at is null or k.expires_at > pgqueue._now())
    )
$$;

comment on function pgqueue.has_api_keys() is 'Whether there is a key that would be let in.';

-- One question a request: who is it, may they, and not too often? Without a key everybody may do all, as
-- long as the server allows that (p_is_open) and no key was ever made.
create or replace function pgqueue.authenticate(p_selector text, p_secret_hash bytea, p_scope text, p_is_open boolean default false)
returns table (key_id bigint, name text, scopes text[], queues text[])
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_key pgqueue.api_keys;
begin
    if p_selector is null then
        if p_is_open and not exists (select from pgqueue.api_keys) then
            return query select null::bigint, 'anonymous', array['admin'], null::text[];
            return;
        end if;
        perform pgqueue._unauthenticated('this needs a key');
    end if;
    select k.* into v_key from pgqueue.api_keys k where k.selector = p_selector;
    if not found or not pgqueue._is_same(v_key.secret_hash, p_secret_hash) then
        perform pgqueue._unauthenticated('this key is not known');
    elsif v_key.revoked_at is not null then
        perform pgqueue._unauthenticated('this key was revoked');
    elsif v_key.expires_at <= v_now then
        perform pgqueue._unauthenticated('this key has expired');
    elsif not v_key.scopes && array[p_scope, 'admin'] then
        raise exception using errcode = 'QU602',
            message = format('this key lacks the scope %s', p_scope),
            detail = jsonb_build_object('scope', p_scope, 'scopes', v_key.scopes),
            hint = format('Use a key that has the scope %s: pgqueue key create gives scopes.', p_scope);
    end if;
    if v_key.rate_limit is not null then
        perform pgqueue._pay(v_key.id, v_key.rate_limit);
    end if;
    if v_key.last_used_at is null or v_key.last_used_at < v_now - interval '1 minute' then
        update pgqueue.api_keys k
        set last_used_at = v_now
        where k.id = v_key.id and (k.last_used_at is null or k.last_used_at < v_now - interval '1 minute');
    end if;
    return query select v_key.id, v_key.name, v_key.scopes, v_key.queues;
end $$;

comment on function pgqueue.authenticate(text, bytea, text, boolean) is
'Who holds a key, if it may be used for this scope now; QU601 without a valid key, QU602 without the scope, QU603 beyond the rate limit.';

-- Both sides are hashed once more with a salt that nobody knows, so that the time this takes tells nothing.
create or replace function pgqueue._is_same(p_one bytea, p_other bytea) returns boolean
language plpgsql volatile
as $$
declare
    v_salt bytea := uuid_send(gen_random_uuid());
begin
    return coalesce(sha256(p_one || v_salt) = sha256(p_other || v_salt), false);
end $$;

comment on function pgqueue._is_same(bytea, bytea) is 'Whether two secrets are the same, in constant time.';

create or replace function pgqueue._unauthenticated(p_message text) returns void
language plpgsql
as $$
begin
    raise exception using errcode = 'QU601',
        message = p_message,
        detail = jsonb_build_object('scheme', 'Bearer'),
        hint = 'Send Authorization: Bearer pgq_…; pgqueue key create makes a key.';
end $$;

comment on function pgqueue._unauthenticated(text) is 'Raises QU601.';

-- Each request costs 60 / limit seconds; a key may be up to a minute ahead, so it may use all at once.
create or replace function pgqueue._pay(p_key_id bigint, p_rate_limit int) returns void
language plpgsql volatile
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_cost interval := interval '1 minute' / p_rate_limit;
    v_wait double precision;
begin
    insert into pgqueue.api_key_usage as u (key_id, used_until)
    values (p_key_id, v_now + v_cost)
    on conflict (key_id) do update set used_until = greatest(u.used_until, v_now) + v_cost
    where greatest(u.used_until, v_now) + v_cost <= v_now + interval '1 minute';
    if not found then
        select extract(epoch from u.used_until + v_cost - v_now) - 60 into v_wait from pgqueue.api_key_usage u where u.key_id = p_key_id;
        raise exception using errcode = 'QU603',
            message = format('this key may make %s requests a minute', p_rate_limit),
            detail = jsonb_build_object('rate_limit', p_rate_limit, 'retry_after', greatest(ceil(v_wait), 1)),
            hint = 'Wait as long as Retry-After says.';
    end if;
end $$;

comment on function pgqueue._pay(bigint, int) is 'Counts a request against a key''s limit; QU603 beyond it.';

create or replace function pgqueue.audit(
    p_action text,
    p_target text default null,
    p_outcome text default 'done',
    p_actor text default 'database',
    p_key_id bigint default null,
    p_detail jsonb default '{}'
) returns bigint
language sql volatile security definer set search_path = ''
as $$
    insert into pgqueue.audit_log (happened_at, actor, key_id, action, target, outcome, detail)
    values (pgqueue._now(), p_actor, p_key_id, p_action, left(p_target, 500), p_outcome, coalesce(p_detail, '{}'))
    returning id
$$;

comment on function pgqueue.audit(text, text, text, text, bigint, jsonb) is 'Adds a row to the audit log, in the transaction of what it tells of.';

create or replace function pgqueue.list_audit(p_limit int default 100, p_before_id bigint default null) returns setof pgqueue.audit_log
language sql stable security definer set search_path = ''
as $$
    select a.* from pgqueue.audit_log a where p_before_id is null or a.id < p_before_id order by a.id desc limit p_limit
$$;

comment on function pgqueue.list_audit(int, bigint) is 'The audit log, newest first.';

-- Called at the start of the transaction that does the work. The first one gets null and does it; whoever
-- comes meanwhile with the same key waits for its end here, and is given its answer, or does the work
-- where the first one failed.
create or replace function pgqueue.begin_idempotent(
    p_actor_id bigint, p_idempotency_key text, p_request_hash bytea, p_seconds double precision default 86400
) returns table (status int, location text, body text)
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_kept pgqueue.idempotency_keys;
begin
    insert into pgqueue.idempotency_keys as i (actor_id, idempotency_key, request_hash, expires_at)
    values (p_actor_id, p_idempotency_key, p_request_hash, v_now + pgqueue._seconds(p_seconds))
    on conflict (actor_id, idempotency_key) do update set
        request_hash = excluded.request_hash, status = null, location = null, body = null, expires_at = excluded.expires_at
    where i.expires_at <= v_now;
    if found then
        return;
    end if;
    select i.* into v_kept from pgqueue.idempotency_keys i where i.actor_id = p_actor_id and i.idempotency_key = p_idempotency_key;
    if v_kept.request_hash is distinct from p_request_hash then
        raise exception using errcode = 'QU203',
            message = format('the idempotency key %L was used for another request', p_idempotency_key),
            detail = jsonb_build_object('idempotency_key', p_idempotency_key),
            hint = 'Use a new key for a new request; repeat a request with the very same body.';
    end if;
    return query select v_kept.status, v_kept.location, v_kept.body;
end $$;

comment on function pgqueue.begin_idempotent(bigint, text, bytea, double precision) is
'The answer that a request with this idempotency key got; none where it is the first. QU203 where it was another request.';

create or replace function pgqueue.keep_answer(p_actor_id bigint, p_idempotency_key text, p_status int, p_location text, p_body text) returns void
language sql volatile security definer set search_path = ''
as $$
    update pgqueue.idempotency_keys
    set status = p_status, location = p_location, body = p_body
    where actor_id = p_actor_id and idempotency_key = p_idempotency_key
$$;

comment on function pgqueue.keep_answer(bigint, text, int, text, text) is 'Keeps an answer for those who repeat the request.';

create or replace function pgqueue.forget_access(p_audit_age interval default interval '90 days') returns bigint
language plpgsql volatile security definer set search_path = ''
as $$
declare
    v_count bigint;
begin
    delete from pgqueue.idempotency_keys i
    where i.ctid = any(array(
        select o.ctid from pgqueue.idempotency_keys o where o.expires_at <= pgqueue._now() limit 10000 for update skip locked
    ));
    delete from pgqueue.audit_log a
    where a.id = any(array(
        select o.id from pgqueue.audit_log o where o.happened_at < pgqueue._now() - p_audit_age order by o.id limit 10000 for update skip locked
    ));
    get diagnostics v_count = row_count;
    return v_count;
end $$;

comment on function pgqueue.forget_access(interval) is 'Deletes expired idempotency keys and old rows of the audit log, up to 10,000 at a time; returns how many of the latter.';

create or replace function pgqueue.task_queue(p_id bigint) returns text
language plpgsql stable security definer set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_queue_name text := (select s.queue_name from pgqueue._states(array[p_id]) s limit 1);
begin
    if v_queue_name is null then
        perform pgqueue._task_not_found(p_id);
    end if;
    return v_queue_name;
end $$;

comment on function pgqueue.task_queue(bigint) is 'The queue of a task, live or finished; QU102 if there is none.';

-- Each queue is searched by itself. Where the search of one stopped early, those of the others are cut off there:
-- what lies below was not looked at in all of them.
create or replace function pgqueue._find_tasks_in(
    p_queue_names text[], p_status text, p_task_type text, p_user_id text, p_project_id text, p_created_from timestamptz,
    p_created_to timestamptz, p_before_id bigint, p_wanted int, p_parent_id bigint,
    out ids bigint[], out finished_ats timestamptz[], out stopped_before bigint
)
language sql stable
as $$
    with searched as materialized (
        select f.*
        from (select distinct n.name from unnest(p_queue_names) as n (name)) q
        cross join lateral pgqueue._find_tasks(
            q.name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_before_id, p_wanted, 3000, p_parent_id
        ) f
    ),
    stopped as (
        select max(s.stopped_before) as id from searched s where cardinality(s.ids) < p_wanted
    ),
    found as (
        select u.id, u.finished_at
        from searched s
        cross join lateral unnest(s.ids, s.finished_ats) as u (id, finished_at)
        cross join stopped p
        where p.id is null or u.id >= p.id
        order by u.id desc
        limit p_wanted
    )
    select
        coalesce(array_agg(f.id order by f.id desc), '{}'), coalesce(array_agg(f.finished_at order by f.id desc), '{}'),
        (select p.id from stopped p)
    from found f
$$;

comment on function pgqueue._find_tasks_in(text[], text, text, text, text, timestamptz, timestamptz, bigint, int, bigint) is
'_find_tasks over several queues.';

drop function if exists pgqueue.list_tasks_in(text[], text, text, text, text, timestamptz, timestamptz, int, bigint, bigint);

-- For a key that is limited to queues: the lists of its queues as one.
create or replace function pgqueue.list_tasks_in(
    p_queue_names text[],
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_limit int default 20,
    p_offset bigint default 0,
    p_before_id bigint default null,
    p_parent_id bigint default null
) returns setof pgqueue.all_tasks
language plpgsql stable security definer set search_path = '' set jit = off
as $$
declare
    v_ids bigint[];
    v_finished_ats timestamptz[];
begin
    perform pgqueue._check_filter(p_status, p_limit, p_offset);
    select f.ids[p_offset + 1:], f.finished_ats[p_offset + 1:] into v_ids, v_finished_ats
    from pgqueue._find_tasks_in(
        p_queue_names, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_before_id,
        (p_offset + p_limit)::int, p_parent_id
    ) f;
    return query select k.* from pgqueue._tasks_by_key(v_ids, v_finished_ats) k;
end $$;

comment on function pgqueue.list_tasks_in(text[], text, text, text, text, timestamptz, timestamptz, int, bigint, bigint, bigint) is
'Tasks of several queues that match every filter given, newest id first.';

create or replace function pgqueue.list_cursor_in(
    p_queue_names text[],
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_before_id bigint default null,
    p_parent_id bigint default null
) returns bigint
language plpgsql stable security definer set search_path = '' set jit = off
as $$
begin
    perform pgqueue._check_filter(p_status, 1, 0);
    return (
        select f.stopped_before
        from pgqueue._find_tasks_in(
            p_queue_names, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_before_id, 3000, p_parent_id
        ) f
    );
end $$;

comment on function pgqueue.list_cursor_in(text[], text, text, text, text, timestamptz, timestamptz, bigint, bigint) is
'Where a search over several queues that found too few has stopped, to go on before it; null where it saw all.';

drop function if exists pgqueue.count_tasks_in(text[], text, text, text, text, timestamptz, timestamptz);

create or replace function pgqueue.count_tasks_in(
    p_queue_names text[],
    p_status text default null,
    p_task_type text default null,
    p_user_id text default null,
    p_project_id text default null,
    p_created_from timestamptz default null,
    p_created_to timestamptz default null,
    p_parent_id bigint default null
) returns table (total bigint, is_capped boolean)
language sql stable security definer set search_path = ''
as $$
    select coalesce(sum(c.total), 0)::bigint, coalesce(bool_or(c.is_capped), false)
    from (select distinct n.name from unnest(p_queue_names) as n (name)) q
    cross join lateral pgqueue.count_tasks(
        q.name, p_status, p_task_type, p_user_id, p_project_id, p_created_from, p_created_to, p_parent_id => p_parent_id
    ) c
$$;

comment on function pgqueue.count_tasks_in(text[], text, text, text, text, timestamptz, timestamptz, bigint) is
'How many tasks match a list_tasks_in.';
