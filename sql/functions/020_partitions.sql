-- Days of history. A partition is built on its own, with its CHECK, and then attached: neither step
-- takes a lock that a finishing task or a reader would have to wait for.

create or replace function pgqueue._partition_name(p_table text, p_day date) returns text
language sql immutable parallel safe
as $$ select p_table || '_' || to_char(p_day, 'YYYYMMDD') $$;

comment on function pgqueue._partition_name(text, date) is 'The name of one day of a partitioned table.';

create or replace function pgqueue._make_partition(p_table text, p_column text, p_day date) returns boolean
language plpgsql
as $$
declare
    v_name text := pgqueue._partition_name(p_table, p_day);
    v_from text := quote_literal(p_day || ' 00:00:00+00');
    v_to text := quote_literal((p_day + 1) || ' 00:00:00+00');
begin
    if to_regclass('pgqueue.' || v_name) is not null then
        return false;
    end if;
    execute format('create table pgqueue.%I (like pgqueue.%I including all)', v_name, p_table);
    execute format(
        'alter table pgqueue.%I add constraint %I check (%I is not null and %I >= %s and %I < %s)',
        v_name, v_name || '_day', p_column, p_column, v_from, p_column, v_to
    );
    execute format('alter table pgqueue.%I attach partition pgqueue.%I for values from (%s) to (%s)', p_table, v_name, v_from, v_to);
    execute format('alter table pgqueue.%I drop constraint %I', v_name, v_name || '_day');
    return true;
end $$;

comment on function pgqueue._make_partition(text, text, date) is 'Makes one day of a partitioned table; false if it is there already.';

-- One maker at a time, by a lock that only makers take; lock_timeout bounds what it may wait for.
create or replace function pgqueue._make_partitions(p_days_ahead int default 14) returns int
language plpgsql security definer set search_path = '' set lock_timeout = '200ms'
as $$
declare
    v_today date := (pgqueue._now() at time zone 'UTC')::date;
    v_made int := 0;
    v_day date;
begin
    perform pg_advisory_xact_lock(hashtextextended('pgqueue.partitions', 0));
    for v_day in select v_today + n from generate_series(0, p_days_ahead) as n loop
        v_made := v_made
            + pgqueue._make_partition('finished_tasks', 'finished_at', v_day)::int
            + pgqueue._make_partition('attempts', 'finished_at', v_day)::int
            + pgqueue._make_partition('task_logs', 'logged_at', v_day)::int;
    end loop;
    return v_made;
end $$;

comment on function pgqueue._make_partitions(int) is 'Makes the days of history from today on; returns how many tables were made.';

-- Called by whatever writes history: three catalog look-ups when the day is there, which is always
-- unless maintenance has not run for two weeks.
create or replace function pgqueue._need_partition(p_at timestamptz) returns void
language plpgsql
as $$
declare
    v_day text := to_char(p_at at time zone 'UTC', 'YYYYMMDD');
begin
    if to_regclass('pgqueue.finished_tasks_' || v_day) is null
    or to_regclass('pgqueue.attempts_' || v_day) is null
    or to_regclass('pgqueue.task_logs_' || v_day) is null then
        perform pgqueue._make_partitions(1);
    end if;
end $$;

comment on function pgqueue._need_partition(timestamptz) is 'Makes the partitions of a moment if they are missing.';

drop function if exists pgqueue._has_live(text, date);

-- Whether a day holds attempts or lines of a task that is live again or still. Mostly all its tasks have smaller ids
-- than the first that lives, which an index tells; else those that live are looked up, if they were ever started.
create or replace function pgqueue._has_live(p_table text, p_day date, p_first_live bigint) returns boolean
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
declare
    v_from timestamptz := p_day::timestamp at time zone 'UTC';
    v_to timestamptz := (p_day + 1)::timestamp at time zone 'UTC';
    v_last bigint;
begin
    execute format('select max(task_id) from pgqueue.%I', pgqueue._partition_name(p_table, p_day)) into v_last;
    if not coalesce(v_last >= p_first_live, false) then
        return false;
    elsif p_table = 'attempts' then
        return exists (
            select from pgqueue.tasks t
            where t.attempt > 0
            and exists (select from pgqueue.attempts a where a.task_id = t.id and a.finished_at >= v_from and a.finished_at < v_to)
        );
    end if;
    return exists (
        select from pgqueue.tasks t
        where t.attempt > 0
        and exists (select from pgqueue.task_logs l where l.task_id = t.id and l.logged_at >= v_from and l.logged_at < v_to)
    );
end $$;

comment on function pgqueue._has_live(text, date, bigint) is 'Whether a day of attempts or task_logs belongs to a task that is live.';

-- The days that can go: first what is on its way out already, because a table can have only one such day, then
-- the oldest. Whoever owns the tables detaches each first, which cannot be done inside a function: under a short
-- lock_timeout, again and again until it succeeds. Attempts and logs of live tasks stay for up to twice as long,
-- tasks until statistics have counted them.
drop function if exists pgqueue._partitions_before(timestamptz);
create or replace function pgqueue._partitions_before(p_before timestamptz)
returns table (partition_name text, parent_name text, is_attached boolean, is_detaching boolean, detach text)
language plpgsql stable security definer set search_path = '' set jit = off
as $$
declare
    v_first_live bigint := (select min(t.id) from pgqueue.tasks t);
begin
    return query
    select
        d.name,
        d.parent,
        i.inhrelid is not null,
        coalesce(i.inhdetachpending, false),
        case when i.inhrelid is not null then
            format('alter table pgqueue.%I detach partition pgqueue.%I ', d.parent, d.name)
            || case when i.inhdetachpending then 'finalize' else 'concurrently' end
        end
    from (
        select c.oid, c.relname::text as name, p.parent, p.nr, to_date(substring(c.relname from '_([0-9]{8})$'), 'YYYYMMDD') as day
        from pg_catalog.pg_class c
        join unnest(array['attempts', 'task_logs', 'finished_tasks']) with ordinality as p (parent, nr)
            on c.relname ~ ('^' || p.parent || '_[0-9]{8}$')
        where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'r'
    ) d
    left join pg_catalog.pg_inherits i on i.inhrelid = d.oid
    where d.day < (p_before at time zone 'UTC')::date
    and case
        when i.inhrelid is null or i.inhdetachpending then true
        when d.parent = 'finished_tasks' then d.day + 1 <= pgqueue._folded_before() at time zone 'UTC'
        when d.day < ((p_before - (pgqueue._now() - p_before)) at time zone 'UTC')::date then true
        else not pgqueue._has_live(d.parent, d.day, v_first_live)
    end
    order by coalesce(i.inhdetachpending, false) desc, d.day, d.nr;
end $$;

comment on function pgqueue._partitions_before(timestamptz) is
'Days of history that ended before a moment, how far their removal has come, and the statement that detaches each.';

-- All of them in one transaction, or none. Days that are still attached lock the whole table for a moment: for
-- those who do not own the tables, or whose connections cannot keep a lock_timeout. Gives up where it would
-- have to wait longer than that.
drop function if exists pgqueue._drop_day(text);
create or replace function pgqueue._drop_days(p_partition_names text[]) returns bigint
language plpgsql volatile security definer set search_path = '' set lock_timeout = '100ms'
as $$
declare
    v_names text[] := array(
        select p.partition_name from pgqueue._partitions_before(pgqueue._now()) p where p.partition_name = any(p_partition_names)
    );
    v_count bigint;
begin
    if v_names = '{}' then
        return 0;
    end if;
    select coalesce(sum(pgqueue._partition_rows(n)), 0) into v_count from unnest(v_names) n where n like 'finished%';
    execute (select 'drop table ' || string_agg(format('pgqueue.%I', n), ', ') from unnest(v_names) n);
    return v_count;
end $$;

comment on function pgqueue._drop_days(text[]) is 'Drops days of history that are over; returns how many tasks they had.';

create or replace function pgqueue._days_of_history() returns table (day date, from_moment timestamptz, to_moment timestamptz)
language sql stable
as $$
    select d.day, d.day::timestamp at time zone 'UTC', (d.day + 1)::timestamp at time zone 'UTC'
    from pg_catalog.pg_inherits i
    join pg_catalog.pg_class c on c.oid = i.inhrelid
    -- Null for other names: a plan may come to them before it knows that they are no partitions.
    cross join lateral (select to_date(substring(c.relname from '^finished_tasks_([0-9]{8})$'), 'YYYYMMDD') as day) d
    where i.inhparent = 'pgqueue.finished_tasks'::regclass
    and not i.inhdetachpending
$$;

comment on function pgqueue._days_of_history() is 'The days of which finished tasks can be kept, from and to when.';

-- Whole days of tasks that retention should have removed by now. The day after its time is the day to remove it.
create or replace function pgqueue._days_overdue(p_keep interval) returns setof text
language sql stable security definer set search_path = ''
as $$
    select p.partition_name
    from pgqueue._partitions_before(pgqueue._now() - p_keep - interval '1 day') p
    where p.parent_name = 'finished_tasks'
$$;

comment on function pgqueue._days_overdue(interval) is 'Days of finished tasks that should have been dropped more than a day ago.';

-- Known from the rollups, where the day is counted.
create or replace function pgqueue._partition_rows(p_partition_name text) returns bigint
language plpgsql stable security definer set search_path = ''
as $$
declare
    v_from timestamptz := to_date(substring(p_partition_name from '^finished_tasks_([0-9]{8})$'), 'YYYYMMDD')::timestamp at time zone 'UTC';
    v_count bigint;
begin
    if v_from + interval '24 hours' <= pgqueue._folded_before() then
        select sum(r.kept) into v_count from pgqueue.task_rollups r where r.step = 'day' and r.bucket = v_from;
        if v_count is not null then
            return v_count - (
                select coalesce(sum(d.tasks), 0)
                from pgqueue.task_departures d
                where d.finished_at >= v_from and d.finished_at < v_from + interval '24 hours'
            );
        end if;
    end if;
    execute format('select count(*) from pgqueue.%I', p_partition_name) into v_count;
    return v_count;
end $$;

comment on function pgqueue._partition_rows(text) is 'How many rows one day of history has.';
