-- While somebody holds an old snapshot, the entries of tasks that ended stay in the lane index. Where the way past them
-- is long, maintenance notes how far nothing waits. Not in lanes, whose rows every insert looks at: under an old
-- snapshot, each version of a row that is written anew stays as well.

create table pgqueue.lane_floors (
    queue_name text not null,
    rank int not null,
    due_from timestamptz not null,
    swept_at timestamptz not null,
    constraint lane_floors_key primary key (queue_name, rank)
) with (fillfactor = 20, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

comment on table pgqueue.lane_floors is 'Where the tasks of a lane begin, if looking from the start takes long; a cache.';
comment on column pgqueue.lane_floors.queue_name is 'The queue.';
comment on column pgqueue.lane_floors.rank is 'The lane: the negated priority.';
comment on column pgqueue.lane_floors.due_from is 'No task that was due before this waited there at swept_at.';
comment on column pgqueue.lane_floors.swept_at is 'When maintenance last looked from the start.';
