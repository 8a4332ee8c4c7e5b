-- The one clock for state. Tests replace this function to travel in time. STABLE, so that
-- run_at <= _now() is an index bound and not a filter; plpgsql, because an SQL function that cannot be
-- inlined is planned anew by every statement.
create or replace function pgqueue._now() returns timestamptz
language plpgsql stable parallel safe
as $$
begin
    return clock_timestamp();
end $$;

comment on function pgqueue._now() is 'The clock of the queue; replaced by tests.';

-- Interval from the seconds that clients send, bounded so that no arithmetic overflows.
create or replace function pgqueue._seconds(p_seconds double precision) returns interval
language plpgsql immutable parallel safe
as $$
begin
    if p_seconds is null or p_seconds < 0 or p_seconds > 31536000 or p_seconds = 'NaN' then
        raise exception using errcode = 'QU001',
            message = format('a delay must be between 0 and 31536000 seconds (one year), not %s', coalesce(p_seconds::text, 'null')),
            detail = jsonb_build_object('delay', p_seconds::text),
            hint = 'Give the delay in seconds, for instance 90.';
    end if;
    return make_interval(secs => p_seconds);
end $$;

comment on function pgqueue._seconds(double precision) is 'Seconds as an interval; QU001 outside 0 to one year.';
