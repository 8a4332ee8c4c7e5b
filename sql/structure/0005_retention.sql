-- How long history is kept: by queue and status, and when it was last looked at.

alter table pgqueue.queues
add column keep_completed interval,
add column keep_failed interval,
add column keep_cancelled interval,
add constraint queues_keep check (
    coalesce(keep_completed, '0') between interval '0' and interval '1000 years'
    and coalesce(keep_failed, '0') between interval '0' and interval '1000 years'
    and coalesce(keep_cancelled, '0') between interval '0' and interval '1000 years'
);

comment on column pgqueue.queues.keep_completed is 'How long completed tasks are kept; null: as long as the workers'' settings say.';
comment on column pgqueue.queues.keep_failed is 'How long failed tasks are kept; null: as long as the workers'' settings say.';
comment on column pgqueue.queues.keep_cancelled is 'How long cancelled tasks are kept; null: as long as the workers'' settings say.';

create table pgqueue.retention (
    is_only boolean primary key default true,
    started_at timestamptz not null default '-infinity',
    completed_at timestamptz,
    keep_completed interval not null default interval '30 days',
    keep_failed interval not null default interval '30 days',
    keep_cancelled interval not null default interval '30 days',
    constraint retention_only check (is_only)
) with (fillfactor = 50);

comment on table pgqueue.retention is 'One row: the last pass over the history, and for how long it kept what has no setting of its own.';
comment on column pgqueue.retention.is_only is 'True: there is one row.';
comment on column pgqueue.retention.started_at is 'When the last pass began; whoever sets it runs the pass.';
comment on column pgqueue.retention.completed_at is 'Nothing was overdue at this moment; null where settings have changed since.';
comment on column pgqueue.retention.keep_completed is 'For completed tasks, by the settings of the worker that ran the pass.';
comment on column pgqueue.retention.keep_failed is 'For failed tasks.';
comment on column pgqueue.retention.keep_cancelled is 'For cancelled tasks.';

insert into pgqueue.retention default values;
