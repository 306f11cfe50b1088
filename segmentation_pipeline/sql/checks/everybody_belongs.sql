-- one row is a stage that does not hold the customers and the money of rfm_features, each once
with split as (
    select customer_id, monetary from normal_customers
    union all
    select customer_id, monetary from outlier_customers
    union all
    select customer_id, monetary from inactive_customers
),

features as (
    select count(*) as customers, coalesce(sum(monetary), 0) as money from rfm_features
),

stages as (
    select
        'split' as stage, count(*) as customers, count(distinct customer_id) as different, coalesce(sum(monetary), 0) as money
    from split
    union all
    select 'customer_segments', count(*), count(distinct customer_id), coalesce(sum(monetary), 0)
    from customer_segments
)

select stages.*, features.customers as wanted_customers, features.money as wanted_money
from stages
cross join features
where
    stages.customers <> features.customers
    or stages.different <> features.customers
    or stages.money <> features.money
order by stages.stage
