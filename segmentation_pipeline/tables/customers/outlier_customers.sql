with crossed as (
    select
        customer_id,
        any_value(side) filter (where feature = 'monetary') as monetary_side,
        any_value(side) filter (where feature = 'frequency') as frequency_side,
        any_value(side) filter (where feature = 'recency') as recency_side,
        any_value(beyond) filter (where feature = 'monetary') as monetary_beyond,
        any_value(beyond) filter (where feature = 'frequency') as frequency_beyond,
        any_value(beyond) filter (where feature = 'recency') as recency_beyond
    from outlier_flags
    group by customer_id
    having count(side) > 0
)

select customer_id, recency, frequency, monetary, crossed.* exclude (customer_id)
from rfm_features
inner join crossed using (customer_id)
