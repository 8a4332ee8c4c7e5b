-- Schedules that are paused are planned as well, so that it is known which ticks they skip, and a bad
-- expression is marked at once.

drop index pgqueue.schedules_unplanned;
create index schedules_unplanned on pgqueue.schedules (id) where planned_at is null;
