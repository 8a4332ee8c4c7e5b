-- Tasks from plain SQL: an insert, a function call, and a trigger on a table of your own.
--
--   export PGQUEUE_DSN=…            a database where `pgqueue migrate` ran
--   cd examples
--   pgqueue db psql -- -f plain_sql.sql        (or: psql "$PGQUEUE_DSN" -f plain_sql.sql)
--   pgqueue-worker plain_sql:queue_service

-- A task is a row. Defaults fill in the rest; a constraint refuses what no worker could run.
insert into pgqueue.tasks (task_type, payload)
values ('greet', '{"name": "insert"}');

-- The function returns the id, and knows unique keys: the second call finds the task of the first.
select pgqueue.submit('greet', '{"name": "function"}', p_unique_key => 'greet function') as submitted;
select pgqueue.submit('greet', '{"name": "function"}', p_unique_key => 'greet function') as submitted_again;

-- Many at once, from a query.
insert into pgqueue.tasks (task_type, payload)
select 'greet', jsonb_build_object('name', 'row ' || n)
from generate_series(1, 3) n;

-- From a trigger: whoever adds a member, by whatever way, also submits the task. Rolled back together.
create table if not exists members (
    id bigint generated always as identity primary key,
    name text not null
);

create or replace function greet_member() returns trigger
language plpgsql
as $$
begin
    perform pgqueue.submit('greet', jsonb_build_object('name', new.name), p_unique_key => 'greet member ' || new.id);
    return new;
end $$;

create or replace trigger members_greet
after insert on members
for each row execute function greet_member();

insert into members (name) values ('trigger');

begin;
insert into members (name) values ('nobody');
rollback;
