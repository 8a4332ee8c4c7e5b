-- Which task submitted a task. A plain bigint: adding a column of a domain would write every live task anew.

alter table pgqueue.tasks add column parent_id bigint;
alter table pgqueue.finished_tasks add column parent_id bigint;

create index tasks_parent on pgqueue.tasks (parent_id, id) where parent_id is not null;
create index finished_tasks_parent on pgqueue.finished_tasks (parent_id, id) where parent_id is not null;

comment on column pgqueue.tasks.parent_id is 'The task that submitted it, which may be gone; null: none did.';
comment on column pgqueue.finished_tasks.parent_id is 'As in tasks.';
