-- one row is one active customer beyond a fence
with active as (
    select * from rfm_features where frequency > 0 and monetary > 0
),

fences as (
    select * from outlier_fences
),

bounds as (
    select
        max(case when feature = 'monetary' then lower_fence end) as monetary_low,
        max(case when feature = 'monetary' then upper_fence end) as monetary_high,
        max(case when feature = 'frequency' then lower_fence end) as frequency_low,
        max(case when feature = 'frequency' then upper_fence end) as frequency_high,
        max(case when feature = 'recency' then lower_fence end) as recency_low,
        max(case when feature = 'recency' then upper_fence end) as recency_high
    from fences
),

sided as (
    select
        active.customer_id,
        active.recency,
        active.frequency,
        active.monetary,
        case
            when cast(active.monetary as double) > bounds.monetary_high then 'high'
            when cast(active.monetary as double) < bounds.monetary_low then 'low'
        end as monetary_side,
        case
            when active.frequency > bounds.frequency_high then 'high'
            when active.frequency < bounds.frequency_low then 'low'
        end as frequency_side,
        case
            when active.recency > bounds.recency_high then 'high'
            when active.recency < bounds.recency_low then 'low'
        end as recency_side
    from active
    cross join bounds
)

select *
from sided
where monetary_side is not null or frequency_side is not null or recency_side is not null
