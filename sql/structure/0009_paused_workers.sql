-- A worker that is there and takes nothing: since when, and why.

alter table pgqueue.workers
add column paused_at timestamptz,
add column pause_reason text,
add constraint workers_pause_reason check (pause_reason is null or paused_at is not null);

comment on column pgqueue.workers.paused_at is 'Since when it claims nothing; null while it does.';
comment on column pgqueue.workers.pause_reason is 'Why it is paused, in the words of whoever paused it.';
