-- One row per comparable month end whose migrations do not sum to its customers.
with customers as (
    select month_end, count(*) as customers
    from segment_history
    where is_comparable
    group by month_end
    qualify month_end > min(month_end) over ()
),

migrations as (
    select month_end, sum(customers) as migrated
    from segment_migrations
    group by month_end
)

select month_end, customers, migrated
from customers
left join migrations using (month_end)
where coalesce(migrated, 0) <> customers
