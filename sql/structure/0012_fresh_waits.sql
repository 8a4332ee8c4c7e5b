-- Who has free slots is seen without a look at the workers, which an insert would have to take every time.

alter table pgqueue.waits add column fresh_until timestamptz not null default '-infinity';

update pgqueue.waits w
set fresh_until = k.heartbeat_at + k.lease
from pgqueue.workers k
where k.id = w.worker_id and k.lost_at is null and k.paused_at is null;

comment on column pgqueue.waits.fresh_until is 'Until when its word counts; its worker''s heartbeats renew it.';
