with sides as (
    select
        customer_id,
        any_value(nearest_side) filter (where feature = 'monetary') as monetary_side,
        any_value(nearest_side) filter (where feature = 'frequency') as frequency_side,
        any_value(nearest_side) filter (where feature = 'recency') as recency_side
    from outlier_flags
    group by customer_id
)

select
    customer_id,
    coalesce(outlier_segment(monetary_side, frequency_side, recency_side), segment_key) as segment_key
from nearest_centroids
left join sides using (customer_id)
union all
select customer_id, segment_key
from inactive_customers
