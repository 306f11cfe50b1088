with centroids as (
    select * from nearest_centroids
),

inactive as (
    select * from inactive_customers
),

sides as (
    select
        customer_id,
        max(case when feature = 'monetary' then nearest_side end) as monetary_side,
        max(case when feature = 'frequency' then nearest_side end) as frequency_side,
        max(case when feature = 'recency' then nearest_side end) as recency_side
    from outlier_flags
    group by customer_id
)

-- A long absence is less value, as little money is: its high side is the one to examine.
select
    centroids.customer_id,
    case
        when sides.monetary_side = 'low' or sides.frequency_side = 'low' or sides.recency_side = 'high' then 'examine'
        when sides.monetary_side = 'high' and sides.frequency_side = 'high' then 'delight'
        when sides.monetary_side = 'high' then 'pamper'
        when sides.frequency_side = 'high' then 'upsell'
        when sides.recency_side = 'low' then 'examine'
        else centroids.segment_key
    end as segment_key
from centroids
left join sides on centroids.customer_id = sides.customer_id
union all
select customer_id, segment_key
from inactive
