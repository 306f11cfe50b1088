with features as (
    select * from rfm_features
),

sides as (
    select * from outlier_flags
),

crossed as (
    select
        customer_id,
        max(case when feature = 'monetary' then side end) as monetary_side,
        max(case when feature = 'frequency' then side end) as frequency_side,
        max(case when feature = 'recency' then side end) as recency_side,
        max(case when feature = 'monetary' then beyond end) as monetary_beyond,
        max(case when feature = 'frequency' then beyond end) as frequency_beyond,
        max(case when feature = 'recency' then beyond end) as recency_beyond
    from sides
    group by customer_id
    having max(side) is not null
)

select
    features.customer_id,
    features.recency,
    features.frequency,
    features.monetary,
    crossed.monetary_side,
    crossed.frequency_side,
    crossed.recency_side,
    crossed.monetary_beyond,
    crossed.frequency_beyond,
    crossed.recency_beyond
from features
inner join crossed on features.customer_id = crossed.customer_id
