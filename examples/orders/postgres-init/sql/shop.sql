-- The service's own database: orders, and the outbox that is written in the same transaction.
create table orders (
    id        bigint generated always as identity primary key,
    customer  text not null,
    amount    numeric(12, 2) not null,
    state     text not null default 'placed'
);

create table outbox (
    id            uuid primary key default gen_random_uuid(),
    aggregatetype text not null,          -- names the topic: outbox.event.<aggregatetype>
    aggregateid   text not null,          -- the record's key: events of one key keep their order
    type          text not null,          -- chooses the handler
    payload       jsonb
);

-- One transaction, two tables: the order cannot exist without its event, nor the event without its order.
create function place_order(customer text, amount numeric) returns bigint language sql as $$
    with o as (insert into orders (customer, amount) values (customer, amount) returning *),
         e as (insert into outbox (aggregatetype, aggregateid, type, payload)
               select 'order', o.customer, 'OrderPlaced', jsonb_build_object('order', o.id, 'customer', o.customer, 'amount', o.amount) from o)
    select id from o
$$;

create function cancel_order(which bigint) returns void language sql as $$
    with o as (update orders set state = 'cancelled' where id = which and state = 'placed' returning *)
    insert into outbox (aggregatetype, aggregateid, type, payload)
    select 'order', o.customer, 'OrderCancelled', jsonb_build_object('order', o.id, 'customer', o.customer, 'amount', o.amount) from o
$$;
