with customers as (
    select * from customer_segments
),

catalogue as (
    select * from segments
),

total as (
    select count(*) as customers, sum(monetary) as revenue
    from customers
),

profiles as (
    select
        segment_key,
        count(*) as customers,
        sum(monetary) as revenue,
        cast(sum(monetary) as double) / count(*) as mean_monetary,
        median(cast(monetary as double)) as median_monetary,
        avg(frequency) as mean_frequency,
        median(frequency) as median_frequency,
        avg(recency) as mean_recency,
        median(recency) as median_recency,
        max(as_of) as as_of
    from customers
    group by segment_key
)

select
    profiles.segment_key,
    catalogue.segment,
    catalogue.customer_group,
    cast(profiles.customers as bigint) as customers,
    cast(profiles.customers as double) / total.customers as customer_share,
    cast(profiles.revenue as decimal(38, 4)) as revenue,
    case when total.revenue > 0 then cast(profiles.revenue as double) / cast(total.revenue as double) end as revenue_share,
    profiles.mean_monetary,
    profiles.median_monetary,
    profiles.mean_frequency,
    profiles.median_frequency,
    profiles.mean_recency,
    profiles.median_recency,
    catalogue.description,
    catalogue.action,
    profiles.as_of
from profiles
inner join catalogue on profiles.segment_key = catalogue.segment_key
cross join total
