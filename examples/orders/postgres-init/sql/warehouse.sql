-- The other database: what the consumer keeps.
create table order_totals (
    customer text primary key,
    orders   bigint not null,
    total    numeric(14, 2) not null
);
