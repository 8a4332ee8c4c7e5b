-- While somebody holds an old snapshot, the entries of tasks that ended stay in the lane index. Where the way past them
-- is long, maintenance notes how far nothing waits.

alter table pgqueue.lanes add column due_from timestamptz;
alter table pgqueue.lanes add column swept_at timestamptz;

comment on table pgqueue.lanes is 'A cache of the priorities in use in each queue, and of where their tasks begin; may hold doubles, never the truth.';
comment on column pgqueue.lanes.due_from is 'No task that was due before this waited here at swept_at; null where looking from the start costs nothing.';
comment on column pgqueue.lanes.swept_at is 'When maintenance last looked from the start, if that took long.';
