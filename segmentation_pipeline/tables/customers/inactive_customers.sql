with features as (
    select * from rfm_features
)

select
    customer_id,
    recency,
    frequency,
    monetary,
    case when frequency = 0 then 'dormant' else 'refunded' end as segment_key
from features
where frequency = 0 or monetary <= 0
