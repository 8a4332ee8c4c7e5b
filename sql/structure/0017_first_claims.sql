-- Under an old snapshot the entries of claims that are gone stay: whoever counts what runs begins behind them.

alter table pgqueue.workers add column claims_from int not null default 0;

comment on column pgqueue.workers.claims_from is 'Nothing runs of its claims below this number, as of its last heartbeat.';
