-- How much, how fast, how often it fails. What ended before the mark (statistics_state.folded_before) is
-- read from rollups, what ended later from its rows, by index. Every reader is one STABLE function: all of
-- its statements see one snapshot, in which a task is in one of the two.

-- Times are counted in bins of a tenth: bin n holds what is above 1.1ⁿ⁻¹ and up to 1.1ⁿ microseconds, bin 0
-- what is shorter. A percentile is told as the middle of its bin and so is true to 5 percent. A histogram has
-- one number a bin, tasks * 512 + bin: half as long as pairs, and quickly taken apart.
create or replace function pgqueue._bin(p_us bigint) returns int
language sql immutable parallel safe
as $$
    select case when p_us > 1 then ceil(ln(p_us::double precision) / ln(1.1::double precision))::int when p_us is not null then 0 end
$$;

comment on function pgqueue._bin(bigint) is 'The bin of a time in microseconds.';

create or replace function pgqueue._us(p_from timestamptz, p_to timestamptz) returns bigint
language sql immutable parallel safe
as $$ select greatest(round(date_part('epoch', p_to - p_from) * 1000000), 0)::bigint $$;

comment on function pgqueue._us(timestamptz, timestamptz) is 'Microseconds between two moments; 0 where the clock was set back between them.';

create or replace function pgqueue._wait_us(p_run_at timestamptz, p_created_at timestamptz, p_started_at timestamptz) returns bigint
language sql immutable parallel safe
as $$
    select case when p_started_at is not null then pgqueue._us(greatest(p_run_at, p_created_at), p_started_at) end
$$;

comment on function pgqueue._wait_us(timestamptz, timestamptz, timestamptz) is 'Microseconds from when a task was due to its start; null if it did not start.';

create or replace function pgqueue._run_us(p_started_at timestamptz, p_finished_at timestamptz) returns bigint
language sql immutable parallel safe
as $$ select case when p_started_at is not null then pgqueue._us(p_started_at, p_finished_at) end $$;

comment on function pgqueue._run_us(timestamptz, timestamptz) is 'Microseconds that the last attempt of a task ran; null if it did not start.';

create or replace function pgqueue._added(p_one bigint[], p_other bigint[]) returns bigint[]
language plpgsql immutable parallel safe
as $$
begin
    if p_other = '{}' then
        return p_one;
    end if;
    return (
        select coalesce(array_agg(s.tasks * 512 + s.bin order by s.bin), '{}')
        from (
            select u.entry & 511 as bin, sum(u.entry >> 9)::bigint as tasks
            from unnest(p_one || p_other) as u (entry)
            group by 1
        ) s
        where s.tasks <> 0
    );
end $$;

comment on function pgqueue._added(bigint[], bigint[]) is 'The sum of two histograms.';

-- Of n times the p-quantile is the ⌈p·n⌉-th.
create or replace function pgqueue._percentiles(p_histogram bigint[]) returns double precision[]
language plpgsql immutable strict parallel safe
as $$
declare
    v_entry bigint;
    v_total bigint := 0;
    v_up_to bigint := 0;
    v_part double precision := 0.5;
    v_found double precision[] := '{}';
begin
    foreach v_entry in array p_histogram loop
        v_total := v_total + (v_entry >> 9);
    end loop;
    foreach v_entry in array p_histogram loop
        v_up_to := v_up_to + (v_entry >> 9);
        while v_up_to >= v_part * v_total loop
            v_found := v_found || case when v_entry & 511 > 0 then 1.1::double precision ^ ((v_entry & 511) - 0.5) / 1000 else 0 end;
            v_part := case v_part when 0.5 then 0.95 when 0.95 then 0.99 end;
        end loop;
        exit when v_part is null;
    end loop;
    return v_found;
end $$;

comment on function pgqueue._percentiles(bigint[]) is
'Milliseconds that 50, 95 and 99 percent of a histogram (in the order of its bins) stay within, true to 5 percent; empty for an empty one.';

create or replace function pgqueue._length(p_step text) returns interval
language sql immutable parallel safe
as $$ select case p_step when 'minute' then interval '1 minute' when 'hour' then interval '1 hour' else interval '24 hours' end $$;

comment on function pgqueue._length(text) is 'How long a minute, hour or day is.';

-- A fifth of what date_trunc with a time zone costs.
create or replace function pgqueue._floor(p_at timestamptz, p_step text) returns timestamptz
language sql stable parallel safe
as $$ select date_bin(pgqueue._length(p_step), p_at, '0001-01-01 00:00:00+00') $$;

comment on function pgqueue._floor(timestamptz, text) is 'Where the minute, hour or day (of UTC) of a moment begins.';

create or replace function pgqueue._ceiling(p_at timestamptz, p_step text) returns timestamptz
language sql stable parallel safe
as $$
    select case when pgqueue._floor(p_at, p_step) = p_at then p_at else pgqueue._floor(p_at, p_step) + pgqueue._length(p_step) end
$$;

comment on function pgqueue._ceiling(timestamptz, text) is 'The first minute, hour or day (of UTC) that begins at a moment or later.';

create or replace function pgqueue._folded_before() returns timestamptz
language sql stable
as $$ select s.folded_before from pgqueue.statistics_state s $$;

comment on function pgqueue._folded_before() is 'The mark: rows that finished before it are counted and may go.';

-- The only way out of finished_tasks, except with a whole day that lies before the mark. p_still_counts:
-- false where the task starts again. What leaves unfolded takes its times along.
create or replace function pgqueue._remove_finished(p_ids bigint[], p_finished_ats timestamptz[], p_still_counts boolean) returns bigint
language plpgsql volatile
set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off set plan_cache_mode = force_generic_plan
as $$
declare
    v_count bigint;
begin
    with gone as (
        delete from pgqueue.finished_tasks f
        using unnest(p_ids, p_finished_ats) as g (id, finished_at)
        where f.id = g.id and f.finished_at = g.finished_at
        returning f.*
    ),
    told as (
        select
            g.queue_name, g.task_type, g.status, p_still_counts and g.finished_at < s.folded_before as is_settled,
            g.finished_at, g.run_at, g.created_at, g.started_at
        from gone g cross join pgqueue.statistics_state s
    ),
    noted as (
        insert into pgqueue.task_departures (finished_at, queue_name, task_type, status, run_us, wait_us, tasks, still_counts)
        select
            case when t.is_settled then pgqueue._floor(t.finished_at, 'day') else t.finished_at end, t.queue_name, t.task_type, t.status,
            case when not t.is_settled then pgqueue._run_us(t.started_at, t.finished_at) end,
            case when not t.is_settled then pgqueue._wait_us(t.run_at, t.created_at, t.started_at) end,
            count(*), p_still_counts
        from told t
        group by 1, 2, 3, 4, 5, 6
    )
    select count(*) into v_count from gone;
    return v_count;
end $$;

comment on function pgqueue._remove_finished(bigint[], timestamptz[], boolean) is
'Deletes finished tasks (p_ids[i], p_finished_ats[i]) so that statistics stay true; returns how many were there.';

-- Moves the mark. A call raises the floor (see _finish_time) and takes its own transaction id, the fence, after
-- that; a later call that finds every transaction below the fence ended that may have ended a task folds what finished
-- below that floor, at most one day of history at a time. Returns the mark; null where another session is at it.
create or replace function pgqueue._fold_statistics() returns timestamptz
language plpgsql volatile security definer
set search_path = '' set jit = off set enable_seqscan = off
as $$
declare
    v_now timestamptz := pgqueue._now();
    v_state pgqueue.statistics_state;
    v_to timestamptz;
    v_is_new boolean := pg_current_xact_id_if_assigned() is null;
begin
    if not pg_try_advisory_xact_lock(hashtextextended('pgqueue.statistics', 0)) then
        return null;
    end if;
    select s.* into v_state from pgqueue.statistics_state s;
    if greatest(v_state.folded_before, v_state.folding_before) > v_now + interval '1 hour' then
        return pgqueue._unfold_statistics(v_now);
    end if;
    if v_state.fence >= pg_snapshot_xmax(pg_current_snapshot()) then
        v_state.fence := null;  -- of the server that this database was dumped from
    elsif pgqueue._is_past(v_state.fence, 'pgqueue.finished_tasks') then
        v_to := least(v_state.folding_before, pgqueue._end_of_day_after(v_state.folded_before));
    end if;
    if v_to is null and v_state.fence is not null then
        return v_state.folded_before;
    elsif v_to is null or v_to = v_state.folding_before then
        -- Not where this transaction has its id already: others may have theirs from before the floor was raised.
        v_state.folding_before := case when v_is_new then pgqueue._raise_floor(v_now) end;
        v_state.fence := case when v_is_new then pg_current_xact_id() end;
    end if;
    if v_to is not null then
        perform pgqueue._thin_statistics(v_now);
        perform pgqueue._fold_window(v_state.folded_before, v_to);
        v_state.folded_before := v_to;
    end if;
    update pgqueue.statistics_state
    set folded_before = v_state.folded_before, folding_before = v_state.folding_before, fence = v_state.fence;
    return v_state.folded_before;
end $$;

comment on function pgqueue._fold_statistics() is 'Counts what ended since the last call into rollups; returns up to where.';

create or replace function pgqueue._raise_floor(p_now timestamptz) returns timestamptz
language plpgsql volatile
as $$
begin
    if p_now > pgqueue._finish_floor() then
        perform setval('pgqueue.finish_floor', (date_part('epoch', p_now) * 1000000)::bigint);
    end if;
    return pgqueue._finish_floor();
end $$;

comment on function pgqueue._raise_floor(timestamptz) is 'Raises the floor to a moment and returns it; it never falls.';

create or replace function pgqueue._end_of_day_after(p_at timestamptz) returns timestamptz
language sql stable
as $$
    select min(d.ends_at)
    from (
        select to_date(substring(c.relname from '^finished_tasks_([0-9]{8})$'), 'YYYYMMDD')::timestamp at time zone 'UTC' + interval '24 hours' as ends_at
        from pg_catalog.pg_inherits i
        join pg_catalog.pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'pgqueue.finished_tasks'::regclass
    ) d
    where d.ends_at > p_at
$$;

comment on function pgqueue._end_of_day_after(timestamptz) is 'The end of the first day of history that ends after a moment.';

-- One statement, so that rows, departures and rollups are seen as they are at one moment: a row that goes at
-- the same time is counted here, and what it leaves behind then says that it was.
create or replace function pgqueue._fold_window(p_from timestamptz, p_to timestamptz) returns void
language sql volatile
set jit = off set enable_seqscan = off set enable_sort = off
as $$
    with left_since as (
        delete from pgqueue.task_departures d where d.finished_at < p_to returning d.*
    ),
    -- Thousands of rows have few pairs of bins: what follows counts those. OFFSET 0 keeps the two times from being
    -- computed again wherever they stand.
    binned as (
        select
            case
                when c.finished_at >= (select s.minutes_from from pgqueue.statistics_state s) then pgqueue._floor(c.finished_at, 'minute')
                else pgqueue._floor(c.finished_at, 'hour')
            end as bucket,
            c.queue_name, c.task_type, c.status, pgqueue._bin(c.run_us) as run_bin, pgqueue._bin(c.wait_us) as wait_bin,
            sum(c.finished) as finished, sum(c.kept) as kept, sum(c.finished * c.run_us) as run_us, sum(c.finished * c.wait_us) as wait_us
        from (
            select
                f.finished_at, f.queue_name, f.task_type, f.status, 1 as finished, 1 as kept,
                pgqueue._run_us(f.started_at, f.finished_at) as run_us, pgqueue._wait_us(f.run_at, f.created_at, f.started_at) as wait_us
            from pgqueue.finished_tasks f
            where f.finished_at >= p_from and f.finished_at < p_to
            union all
            select
                d.finished_at, d.queue_name, d.task_type, d.status,
                d.tasks * case when d.finished_at >= p_from then d.still_counts::int else d.still_counts::int - 1 end,
                d.tasks * case when d.finished_at >= p_from then 0 else -1 end,
                d.run_us, d.wait_us
            from left_since d
            offset 0
        ) c
        group by 1, 2, 3, 4, 5, 6
    ),
    counted as (
        select
            c.bucket, c.queue_name, c.task_type, c.status,
            case when grouping(c.run_bin) = 0 then 'run' when grouping(c.wait_bin) = 0 then 'wait' end as part,
            coalesce(c.run_bin, c.wait_bin) as bin,
            sum(c.finished) as finished, sum(c.kept) as kept, sum(c.run_us) as run_us, sum(c.wait_us) as wait_us
        from binned c
        group by grouping sets (
            (c.bucket, c.queue_name, c.task_type, c.status),
            (c.bucket, c.queue_name, c.task_type, c.status, c.run_bin),
            (c.bucket, c.queue_name, c.task_type, c.status, c.wait_bin)
        )
    ),
    summed as (
        select
            case when s.is_split then s.step else 'all_' || s.step end as step,
            case s.step when 'total' then '-infinity' else pgqueue._floor(c.bucket, s.step) end as bucket,
            case when s.is_split then c.queue_name else '' end as queue_name,
            case when s.is_split then c.task_type else '' end as task_type,
            c.status, c.part, c.bin,
            sum(c.finished)::bigint as finished, sum(c.kept)::bigint as kept,
            sum(c.run_us) as run_us, sum(c.wait_us) as wait_us
        from counted c
        join (
            select k.step, k.is_split, case k.step when 'minute' then t.minutes_from when 'hour' then t.hours_from else '-infinity' end as since
            from (
                values ('minute', true), ('hour', true), ('day', true), ('minute', false), ('hour', false), ('day', false), ('total', true)
            ) as k (step, is_split)
            cross join pgqueue.statistics_state t
        ) s on c.bucket >= s.since
        where c.part is null or (c.bin is not null and s.step <> 'total')
        group by 1, 2, 3, 4, 5, 6, 7
    )
    insert into pgqueue.task_rollups as r (
        step, bucket, queue_name, task_type, status, finished, kept, run_us, wait_us, run_histogram, wait_histogram
    )
    select
        s.step, s.bucket, s.queue_name, s.task_type, s.status,
        max(s.finished) filter (where s.part is null),
        case s.step when 'day' then max(s.kept) filter (where s.part is null) else 0 end,
        coalesce(max(s.run_us) filter (where s.part is null), 0),
        coalesce(max(s.wait_us) filter (where s.part is null), 0),
        coalesce(array_agg(s.finished * 512 + s.bin order by s.bin) filter (where s.part = 'run' and s.finished <> 0), '{}'),
        coalesce(array_agg(s.finished * 512 + s.bin order by s.bin) filter (where s.part = 'wait' and s.finished <> 0), '{}')
    from summed s
    group by s.step, s.bucket, s.queue_name, s.task_type, s.status
    having bool_or(s.finished <> 0 or (s.kept <> 0 and s.step = 'day'))
    on conflict (step, bucket, queue_name, task_type, status) do update set
        finished = r.finished + excluded.finished,
        kept = r.kept + excluded.kept,
        run_us = r.run_us + excluded.run_us,
        wait_us = r.wait_us + excluded.wait_us,
        run_histogram = pgqueue._added(r.run_histogram, excluded.run_histogram),
        wait_histogram = pgqueue._added(r.wait_histogram, excluded.wait_histogram)
$$;

comment on function pgqueue._fold_window(timestamptz, timestamptz) is
'Adds to the rollups what ended in a window that is complete, and what has left since it was added.';

-- The clock was set back by more than an hour: what ends now ends before the mark. The mark goes back to the
-- beginning of that day, and what lies behind it is counted again.
create or replace function pgqueue._unfold_statistics(p_now timestamptz) returns timestamptz
language plpgsql volatile
as $$
declare
    v_mark timestamptz := pgqueue._floor(p_now - interval '1 hour', 'day');
begin
    delete from pgqueue.task_rollups r where r.step = 'total' or r.bucket >= v_mark;
    insert into pgqueue.task_rollups (
        step, bucket, queue_name, task_type, status, finished, kept, run_us, wait_us, run_histogram, wait_histogram
    )
    select
        'total', '-infinity', r.queue_name, r.task_type, r.status, sum(r.finished), 0, sum(r.run_us), sum(r.wait_us), '{}', '{}'
    from pgqueue.task_rollups r
    where r.step = 'day'
    group by r.queue_name, r.task_type, r.status;
    perform setval('pgqueue.finish_floor', 0, false);
    update pgqueue.statistics_state s
    set folded_before = v_mark, folding_before = null, fence = null,
        minutes_from = least(s.minutes_from, v_mark), hours_from = least(s.hours_from, v_mark);
    return v_mark;
end $$;

comment on function pgqueue._unfold_statistics(timestamptz) is 'Forgets the rollups from the day of an hour ago on; returns the mark that stands then.';

create or replace function pgqueue._thin_statistics(p_now timestamptz) returns void
language plpgsql volatile
set jit = off set enable_seqscan = off
as $$
declare
    v_minutes_from timestamptz := pgqueue._floor(p_now - interval '8 days', 'day');
    v_hours_from timestamptz := pgqueue._floor(p_now - interval '400 days', 'day');
begin
    update pgqueue.statistics_state s
    set minutes_from = greatest(s.minutes_from, v_minutes_from), hours_from = greatest(s.hours_from, v_hours_from)
    where s.minutes_from < v_minutes_from or s.hours_from < v_hours_from;
    if found then
        delete from pgqueue.task_rollups r where r.step in ('minute', 'all_minute') and r.bucket < v_minutes_from;
        delete from pgqueue.task_rollups r where r.step in ('hour', 'all_hour') and r.bucket < v_hours_from;
    end if;
end $$;

comment on function pgqueue._thin_statistics(timestamptz) is 'Forgets minutes after 8 days and hours after 400; days stay.';

-- The last pages of a day are in no range of its BRIN index until somebody sums them up. A vacuum does it as
-- well, and would be waited for: where one is at the day, this time it is left out.
create or replace function pgqueue._summarize_finished() returns void
language plpgsql volatile
set lock_timeout = '200ms'
as $$
declare
    v_today date := (pgqueue._now() at time zone 'UTC')::date;
begin
    perform brin_summarize_new_values(i.indexrelid)
    from pg_catalog.pg_inherits h
    join pg_catalog.pg_index i on i.indexrelid = h.inhrelid
    where h.inhparent = 'pgqueue.finished_tasks_ended'::regclass
    and i.indrelid in (
        to_regclass('pgqueue.' || pgqueue._partition_name('finished_tasks', v_today)),
        to_regclass('pgqueue.' || pgqueue._partition_name('finished_tasks', v_today - 1))
    )
    and not exists (
        select from pg_catalog.pg_locks l
        where l.locktype = 'relation' and l.relation = i.indrelid and l.database = (select d.oid from pg_catalog.pg_database d where d.datname = current_database())
        and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')
    );
end $$;

comment on function pgqueue._summarize_finished() is 'Lets the index of ends know what today and yesterday brought.';

-- What ended in a window, as rollups say it. Whole days, hours and minutes come from rollups; what is cut off
-- at its ends, and what ended after the mark, from the rows. Where the rows of a minute (of an hour, of a day,
-- where nothing finer is kept) were removed, it counts as a whole if the window cuts it. Without p_is_split
-- rollups of all together are read, and names say nothing.
drop function if exists pgqueue._ended(timestamptz, timestamptz, text, text, text);
create or replace function pgqueue._ended(
    p_from timestamptz, p_to timestamptz, p_step text, p_queue_name text default null, p_task_type text default null, p_is_split boolean default true
) returns table (
    bucket timestamptz, queue_name text, task_type text, status text, finished bigint, run_us numeric, wait_us numeric,
    run_histogram bigint[], wait_histogram bigint[]
)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_state pgqueue.statistics_state := (select s from pgqueue.statistics_state s);
    v_mark timestamptz := v_state.folded_before;
    v_end timestamptz := case when p_to >= v_mark then 'infinity' else p_to end;
    v_first text := pgqueue._finest(v_state, p_from);
    v_last text := pgqueue._finest(v_state, v_end);
    v_minute timestamptz[] := array[pgqueue._ceiling(p_from, v_first), pgqueue._floor(v_end, v_last)];
    v_hour timestamptz[];
    v_day timestamptz[];
begin
    if p_from < v_mark and pgqueue._floor(p_from, v_first) < p_from and not pgqueue._all_kept(pgqueue._floor(p_from, v_first), v_first) then
        v_minute[1] := pgqueue._floor(p_from, v_first);
    end if;
    if v_minute[2] < v_end and not pgqueue._all_kept(v_minute[2], v_last) then
        v_minute[2] := v_minute[2] + pgqueue._length(v_last);
    end if;
    if v_minute[1] > v_minute[2] then
        v_minute := array[v_end, v_end];
    end if;
    v_hour := array[pgqueue._ceiling(v_minute[1], 'hour'), pgqueue._floor(v_minute[2], 'hour')];
    if p_step = 'minute' or v_hour[1] > v_hour[2] then
        v_hour := array[v_minute[1], v_minute[1]];
    end if;
    v_day := array[pgqueue._ceiling(v_hour[1], 'day'), pgqueue._floor(v_hour[2], 'day')];
    if p_step <> 'day' or v_day[1] > v_day[2] then
        v_day := array[v_hour[1], v_hour[1]];
    end if;
    return query
    select
        r.bucket, r.queue_name, r.task_type, r.status, r.finished, r.run_us, r.wait_us, r.run_histogram, r.wait_histogram
    from (
        values
            ('day', v_day[1], v_day[2]),
            ('hour', v_hour[1], v_day[1]), ('hour', v_day[2], v_hour[2]),
            ('minute', v_minute[1], v_hour[1]), ('minute', v_hour[2], v_minute[2])
    ) as part (step, since, until)
    join pgqueue.task_rollups r
        on r.step = case when p_is_split then part.step else 'all_' || part.step end and r.bucket >= part.since and r.bucket < part.until
    where (p_queue_name is null or r.queue_name = p_queue_name)
    and (p_task_type is null or r.task_type = p_task_type);
    return query
    with ended as materialized (
        select
            f.finished_at, f.queue_name, f.task_type, f.status, 1::bigint as tasks,
            pgqueue._run_us(f.started_at, f.finished_at) as run_us, pgqueue._wait_us(f.run_at, f.created_at, f.started_at) as wait_us
        from (
            values
                (p_from, least(v_minute[1], v_mark, p_to)),
                (greatest(v_minute[2], p_from), least(v_end, v_mark)),
                (greatest(p_from, v_mark), p_to)
        ) as part (since, until)
        join pgqueue.finished_tasks f on f.finished_at >= part.since and f.finished_at < part.until
        where (p_queue_name is null or f.queue_name = p_queue_name)
        and (p_task_type is null or f.task_type = p_task_type)
        union all
        select d.finished_at, d.queue_name, d.task_type, d.status, d.tasks * case when d.still_counts then 1 else -1 end, d.run_us, d.wait_us
        from pgqueue.task_departures d
        where (
            (d.still_counts and d.finished_at >= v_mark and d.finished_at >= p_from and d.finished_at < p_to)
            or (not d.still_counts and d.finished_at < v_mark and d.finished_at >= v_minute[1] and d.finished_at < v_minute[2])
        )
        and (p_queue_name is null or d.queue_name = p_queue_name)
        and (p_task_type is null or d.task_type = p_task_type)
    )
    select
        pgqueue._floor(e.finished_at, p_step), e.queue_name, e.task_type, e.status, sum(e.tasks)::bigint,
        coalesce(sum(e.tasks * e.run_us), 0), coalesce(sum(e.tasks * e.wait_us), 0),
        case when pgqueue._bin(e.run_us) is null then '{}' else array[sum(e.tasks)::bigint * 512 + pgqueue._bin(e.run_us)] end,
        case when pgqueue._bin(e.wait_us) is null then '{}' else array[sum(e.tasks)::bigint * 512 + pgqueue._bin(e.wait_us)] end
    from ended e
    group by 1, 2, 3, 4, pgqueue._bin(e.run_us), pgqueue._bin(e.wait_us);
end $$;

comment on function pgqueue._ended(timestamptz, timestamptz, text, text, text, boolean) is
'What ended in a window, by queue, type, status and at most p_step (minute, hour or day), in several rows each.';

create or replace function pgqueue._finest(p_state pgqueue.statistics_state, p_at timestamptz) returns text
language sql immutable parallel safe
as $$
    select case when p_at >= p_state.minutes_from then 'minute' when p_at >= p_state.hours_from then 'hour' else 'day' end
$$;

comment on function pgqueue._finest(pgqueue.statistics_state, timestamptz) is 'The finest step of which rollups are kept for a moment.';

create or replace function pgqueue._all_kept(p_bucket timestamptz, p_step text) returns boolean
language plpgsql stable
set jit = off set enable_seqscan = off
as $$
declare
    v_end timestamptz := least(p_bucket + pgqueue._length(p_step), pgqueue._folded_before());
begin
    return (
        select coalesce(sum(r.finished), 0) from pgqueue.task_rollups r where r.step = p_step and r.bucket = p_bucket
    ) - (
        select coalesce(sum(d.tasks), 0)
        from pgqueue.task_departures d
        where not d.still_counts and d.finished_at >= p_bucket and d.finished_at < v_end
    ) = (
        select count(*)
        from pgqueue.finished_tasks f
        where f.finished_at >= p_bucket and f.finished_at < v_end
    );
end $$;

comment on function pgqueue._all_kept(timestamptz, text) is 'Whether finished_tasks still has all that a rollup counts.';

create or replace function pgqueue._check_window(p_from timestamptz, p_to timestamptz) returns void
language plpgsql immutable
as $$
begin
    if p_from is null or p_to is null or p_from > p_to then
        raise exception using errcode = 'QU001',
            message = format('a window cannot go from %s to %s', coalesce(p_from::text, 'null'), coalesce(p_to::text, 'null')),
            detail = jsonb_build_object('from', p_from, 'to', p_to),
            hint = 'Give two moments, the earlier one first.';
    end if;
end $$;

comment on function pgqueue._check_window(timestamptz, timestamptz) is 'Raises QU001 for a window that ends before it starts.';

drop function if exists pgqueue.task_statistics(timestamptz, timestamptz);
create or replace function pgqueue.task_statistics(p_from timestamptz, p_to timestamptz, p_queue_names text[] default null)
returns table (
    total bigint, completed bigint, failed bigint, cancelled bigint, pending bigint, running bigint, success_rate double precision,
    avg_duration_ms double precision, p50_duration_ms double precision, p95_duration_ms double precision, p99_duration_ms double precision
)
language plpgsql stable security definer set search_path = '' set jit = off
as $$
begin
    perform pgqueue._check_window(p_from, p_to);
    return query
    with ended as materialized (
        select e.*
        from pgqueue._ended(p_from, p_to, 'day', p_is_split => p_queue_names is not null) e
        where p_queue_names is null or e.queue_name = any(p_queue_names)
    ),
    counted as (
        select
            coalesce(sum(e.finished) filter (where e.status = 'completed'), 0)::bigint as completed,
            coalesce(sum(e.finished) filter (where e.status = 'failed'), 0)::bigint as failed,
            coalesce(sum(e.finished) filter (where e.status = 'cancelled'), 0)::bigint as cancelled,
            coalesce(sum(e.finished), 0)::bigint as ended,
            sum(e.run_us) as run_us
        from ended e
    ),
    bins as (
        select u.entry & 511 as bin, sum(u.entry >> 9)::bigint as tasks
        from (select unnest(e.run_histogram) as entry from ended e) u
        group by 1
    ),
    timed as (
        select sum(b.tasks) as tasks, pgqueue._percentiles(array_agg(b.tasks * 512 + b.bin order by b.bin)) as p
        from bins b
        where b.tasks > 0
    ),
    live as (
        select coalesce(sum(l.pending + l.scheduled + l.blocked), 0)::bigint as pending, coalesce(sum(l.running), 0)::bigint as running
        from pgqueue.queues q
        cross join lateral pgqueue._live_counts(q.name) l
        where p_queue_names is null or q.name = any(p_queue_names)
    )
    select
        c.ended + l.pending + l.running, c.completed, c.failed, c.cancelled, l.pending, l.running,
        coalesce(100.0 * c.completed / nullif(c.ended, 0), 0)::double precision,
        coalesce(c.run_us / t.tasks / 1000, 0)::double precision, coalesce(t.p[1], 0), coalesce(t.p[2], 0), coalesce(t.p[3], 0)
    from counted c cross join timed t cross join live l;
end $$;

comment on function pgqueue.task_statistics(timestamptz, timestamptz, text[]) is
'Counts, success rate (percent of the ended) and durations of what finished from p_from up to before p_to; percentiles true to 5 percent.';

-- One row a step, for each queue and type that had any where p_by names them; steps are of UTC, and what had
-- nothing is there with zeros.
create or replace function pgqueue.task_series(
    p_from timestamptz, p_to timestamptz, p_step text, p_queue_name text default null, p_task_type text default null, p_by text[] default '{}'
) returns table (
    bucket timestamptz, queue_name text, task_type text, total bigint, completed bigint, failed bigint, cancelled bigint,
    avg_duration_ms double precision, p50_duration_ms double precision, p95_duration_ms double precision, p99_duration_ms double precision,
    avg_wait_ms double precision, p50_wait_ms double precision, p95_wait_ms double precision, p99_wait_ms double precision
)
language plpgsql stable security definer set search_path = '' set jit = off
as $$
#variable_conflict use_column
begin
    perform pgqueue._check_series(p_from, p_to, p_step, p_by);
    return query
    with ended as materialized (
        select
            pgqueue._floor(e.bucket, p_step) as bucket,
            case when 'queue_name' = any(p_by) then e.queue_name else '' end as queue_name,
            case when 'task_type' = any(p_by) then e.task_type else '' end as task_type,
            e.status, e.finished, e.run_us, e.wait_us, e.run_histogram, e.wait_histogram
        from pgqueue._ended(p_from, p_to, p_step, p_queue_name, p_task_type, p_by <> '{}' or p_queue_name is not null or p_task_type is not null) e
    ),
    kinds as materialized (
        select k.queue_name, k.task_type, row_number() over ()::int as nr
        from (
            select e.queue_name, e.task_type from ended e group by 1, 2 having sum(e.finished) <> 0
            union
            select '', '' where p_by = '{}'
        ) k
    ),
    parts as materialized (
        select e.*, k.nr from ended e join kinds k on k.queue_name = e.queue_name and k.task_type = e.task_type
    ),
    counted as (
        select
            p.bucket, p.nr, sum(p.finished)::bigint as total,
            coalesce(sum(p.finished) filter (where p.status = 'completed'), 0)::bigint as completed,
            coalesce(sum(p.finished) filter (where p.status = 'failed'), 0)::bigint as failed,
            coalesce(sum(p.finished) filter (where p.status = 'cancelled'), 0)::bigint as cancelled,
            sum(p.run_us) as run_us, sum(p.wait_us) as wait_us
        from parts p
        group by p.bucket, p.nr
    ),
    bins as (
        select u.bucket, u.nr, true as is_run, u.entry & 511 as bin, sum(u.entry >> 9)::bigint as tasks
        from (select p.bucket, p.nr, unnest(p.run_histogram) as entry from parts p) u
        group by 1, 2, 4
        union all
        select u.bucket, u.nr, false, u.entry & 511, sum(u.entry >> 9)::bigint
        from (select p.bucket, p.nr, unnest(p.wait_histogram) as entry from parts p) u
        group by 1, 2, 4
    ),
    timed as (
        select
            b.bucket, b.nr, sum(b.tasks) filter (where b.is_run) as tasks,
            pgqueue._percentiles(array_agg(b.tasks * 512 + b.bin order by b.bin) filter (where b.is_run)) as run,
            pgqueue._percentiles(array_agg(b.tasks * 512 + b.bin order by b.bin) filter (where not b.is_run)) as wait
        from bins b
        where b.tasks > 0
        group by b.bucket, b.nr
    )
    select
        s.at, nullif(k.queue_name, ''), nullif(k.task_type, ''),
        coalesce(c.total, 0), coalesce(c.completed, 0), coalesce(c.failed, 0), coalesce(c.cancelled, 0),
        coalesce(c.run_us / t.tasks / 1000, 0)::double precision, coalesce(t.run[1], 0), coalesce(t.run[2], 0), coalesce(t.run[3], 0),
        coalesce(c.wait_us / t.tasks / 1000, 0)::double precision, coalesce(t.wait[1], 0), coalesce(t.wait[2], 0), coalesce(t.wait[3], 0)
    from generate_series(pgqueue._floor(p_from, p_step), p_to - interval '1 microsecond', pgqueue._length(p_step)) as s (at)
    cross join kinds k
    left join counted c on c.bucket = s.at and c.nr = k.nr
    left join timed t on t.bucket = s.at and t.nr = k.nr
    order by k.queue_name, k.task_type, s.at;
end $$;

comment on function pgqueue.task_series(timestamptz, timestamptz, text, text, text, text[]) is
'What finished in a window, step by step (minute, hour or day), each with counts, run times and waits; percentiles true to 5 percent.';

create or replace function pgqueue._check_series(p_from timestamptz, p_to timestamptz, p_step text, p_by text[]) returns void
language plpgsql stable
as $$
declare
    v_state pgqueue.statistics_state := (select s from pgqueue.statistics_state s);
    v_points double precision;
begin
    if p_step is null or p_step not in ('minute', 'hour', 'day') then
        raise exception using errcode = 'QU001',
            message = format('there is no step %L', p_step),
            detail = jsonb_build_object('step', p_step),
            hint = 'The steps are minute, hour and day.';
    end if;
    if p_by is null or not p_by <@ array['queue_name', 'task_type'] then
        raise exception using errcode = 'QU001',
            message = format('a series cannot be split by %s', coalesce(p_by::text, 'null')),
            detail = jsonb_build_object('by', p_by),
            hint = 'It can be split by queue_name, by task_type, by both or by nothing.';
    end if;
    perform pgqueue._check_window(p_from, p_to);
    v_points := ceil((date_part('epoch', p_to) - date_part('epoch', pgqueue._floor(p_from, p_step))) / date_part('epoch', pgqueue._length(p_step)));
    if v_points > 10000 then
        raise exception using errcode = 'QU001',
            message = format('a series by %s from %s to %s has %s points; it may have 10000', p_step, p_from, p_to, v_points),
            detail = jsonb_build_object('step', p_step, 'points', v_points::text),
            hint = 'Take a longer step or a shorter window.';
    end if;
    if p_from < (case p_step when 'minute' then v_state.minutes_from when 'hour' then v_state.hours_from else '-infinity' end) then
        raise exception using errcode = 'QU001',
            message = format('a series by %s cannot begin at %s', p_step, p_from),
            detail = jsonb_build_object('step', p_step, 'from', p_from),
            hint = 'Minutes are kept for 8 days, hours for 400, days for ever: take a longer step.';
    end if;
end $$;

comment on function pgqueue._check_series(timestamptz, timestamptz, text, text[]) is 'Raises QU001 for a series that cannot be told.';

-- Counted in the index of lanes alone, lane by lane: what runs is in it too, is few, and is taken off. Beyond
-- p_most, what maintenance counted last, and when; before where _lanes says that tasks begin, what it found there.
create or replace function pgqueue._live_counts(p_queue_name text, p_most int default 10000)
returns table (
    pending bigint, scheduled bigint, blocked bigint, running bigint, oldest_run_at timestamptz, counted_at timestamptz
)
language plpgsql stable
set jit = off set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_now timestamptz := pgqueue._now();
    v_running_due bigint;
    v_running_later bigint;
    v_noted pgqueue.queue_counts;
begin
    select count(*), count(*) filter (where t.run_at between l.due_from and v_now), count(*) filter (where t.run_at > v_now)
    into running, v_running_due, v_running_later
    from pgqueue.workers w
    cross join lateral (
        select c.ids, c.worker_id, c.claim_no from pgqueue.claims c where c.worker_id = w.id and c.claim_no >= w.claims_from offset 0
    ) c
    join pgqueue.tasks t on t.id = any(c.ids)
    left join pgqueue._lanes(p_queue_name) l on l.rank = t.rank
    where t.status = 'running' and t.queue_name = p_queue_name and t.worker_id = c.worker_id and t.claim_no = c.claim_no;
    select min(l.swept_at) into counted_at from pgqueue._lanes(p_queue_name) l;
    select count(*) - v_running_due into pending
    from (
        select
        from pgqueue._lanes(p_queue_name) l
        cross join lateral (
            select
            from pgqueue.tasks t
            where t.queue_name = p_queue_name and t.rank = l.rank and t.waits_for = 0 and t.run_at between l.due_from and v_now
            limit p_most + 1 + v_running_due
        ) here
        limit p_most + 1 + v_running_due
    ) due;
    select count(*) - v_running_later into scheduled
    from (
        select
        from pgqueue._lanes(p_queue_name) l
        cross join lateral (
            select
            from pgqueue.tasks t
            where t.queue_name = p_queue_name and t.rank = l.rank and t.waits_for = 0 and t.run_at > v_now
            limit p_most + 1 + v_running_later
        ) here
        limit p_most + 1 + v_running_later
    ) later;
    select count(*) into blocked
    from (select from pgqueue.tasks t where t.queue_name = p_queue_name and t.waits_for > 0 limit p_most + 1) behind;
    if greatest(pending, scheduled, blocked) > p_most then
        select c.* into v_noted from pgqueue.queue_counts c where c.queue_name = p_queue_name;
        counted_at := least(counted_at, coalesce(v_noted.counted_at, v_now));
        if pending > p_most then
            pending := greatest(p_most, v_noted.waiting - v_noted.scheduled - v_noted.blocked);
        end if;
        if scheduled > p_most then
            scheduled := greatest(p_most, v_noted.scheduled);
        end if;
        if blocked > p_most then
            blocked := greatest(p_most, v_noted.blocked);
        end if;
    end if;
    select min(first.run_at) into oldest_run_at
    from pgqueue._lanes(p_queue_name) l
    cross join lateral (
        select t.run_at
        from pgqueue.tasks t
        where t.queue_name = p_queue_name and t.rank = l.rank and t.waits_for = 0 and t.status = 'pending'
        and t.run_at >= l.due_from and t.run_at <= v_now
        order by t.run_at
        limit 1
    ) first;
    return next;
end $$;

comment on function pgqueue._live_counts(text, int) is
'What waits and runs in a queue: exact up to p_most of a kind, else as maintenance counted at counted_at (null where all is exact).';

drop function if exists pgqueue.queue_stats(text);
create or replace function pgqueue.queue_stats(p_name text)
returns table (
    queue_name text, pending bigint, scheduled bigint, blocked bigint, running bigint, completed bigint, failed bigint,
    cancelled bigint, queue_size bigint, queue_capacity int, concurrency int, paused boolean, oldest_pending_age_s double precision,
    counted_at timestamptz
)
language plpgsql stable security definer
set search_path = '' set jit = off set enable_seqscan = off set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
    v_queue pgqueue.queues;
    v_mark timestamptz := pgqueue._folded_before();
begin
    select q.* into v_queue from pgqueue.queues q where q.name = p_name;
    if not found then
        perform pgqueue._queue_not_found(p_name);
    end if;
    return query
    with parts as (
        select r.status, r.finished as tasks
        from pgqueue.task_rollups r
        where r.step = 'total' and r.bucket = '-infinity' and r.queue_name = p_name
        union all
        select f.status, 1
        from pgqueue.finished_tasks f
        where f.finished_at >= v_mark and f.queue_name = p_name
        union all
        select d.status, case when d.still_counts then d.tasks else -d.tasks end
        from pgqueue.task_departures d
        where d.queue_name = p_name and d.still_counts = (d.finished_at >= v_mark)
    ),
    ended as (
        select
            coalesce(sum(p.tasks) filter (where p.status = 'completed'), 0)::bigint as completed,
            coalesce(sum(p.tasks) filter (where p.status = 'failed'), 0)::bigint as failed,
            coalesce(sum(p.tasks) filter (where p.status = 'cancelled'), 0)::bigint as cancelled
        from parts p
    )
    select
        p_name, l.pending, l.scheduled, l.blocked, l.running, e.completed, e.failed, e.cancelled,
        l.pending + l.scheduled + l.blocked, v_queue.capacity, v_queue.concurrency, v_queue.paused_at is not null,
        coalesce(extract(epoch from pgqueue._now() - l.oldest_run_at), 0)::double precision, l.counted_at
    from ended e cross join pgqueue._live_counts(p_name) l;
end $$;

comment on function pgqueue.queue_stats(text) is
'One queue in numbers: what waits and runs now (counted_at says that maintenance counted a part of it), and all that ever ended in it; QU101 if there is none.';
