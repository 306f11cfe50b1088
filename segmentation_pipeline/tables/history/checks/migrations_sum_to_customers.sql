-- One row per comparable month end whose migrations do not sum to its customers.
with history as (
    select * from segment_history where is_comparable
),

customers as (
    select month_end, count(*) as customers
    from history
    group by month_end
),

migrations as (
    select month_end, sum(customers) as customers
    from segment_migrations
    group by month_end
)

select customers.month_end, customers.customers, migrations.customers as migrated
from customers
left join migrations on customers.month_end = migrations.month_end
where
    customers.month_end > (select min(month_end) from history)
    and coalesce(migrations.customers, 0) <> customers.customers
