-- One row per customer who is not once in the groups and once in the segments, with the same money and group.
with grouped as (
    select customer_id, count(*) as times, sum(monetary) as monetary, min(customer_group) as customer_group
    from (
        select customer_id, monetary, 'normal' as customer_group from normal_customers
        union all
        select customer_id, monetary, 'outlier' from outlier_customers
        union all
        select customer_id, monetary, 'inactive' from inactive_customers
    )
    group by customer_id
),

-- The catalogue says which group a segment belongs to: a dormant customer is inactive, whatever its own row says.
segmented as (
    select
        customers.customer_id,
        count(*) as times,
        sum(customers.monetary) as monetary,
        min(customers.customer_group) as customer_group,
        min(segments.customer_group) as group_of_segment
    from customer_segments as customers
    left join segments using (segment_key, segment)
    group by customers.customer_id
)

select
    customer_id,
    coalesce(grouped.times, 0) as times_in_groups,
    coalesce(segmented.times, 0) as times_in_segments,
    features.monetary,
    grouped.monetary as monetary_in_groups,
    segmented.monetary as monetary_in_segments,
    grouped.customer_group as group_in_groups,
    segmented.customer_group as group_in_segments,
    segmented.group_of_segment
from rfm_features as features
full outer join grouped using (customer_id)
full outer join segmented using (customer_id)
where
    features.customer_id is null
    or times_in_groups <> 1
    or times_in_segments <> 1
    or features.monetary <> grouped.monetary
    or features.monetary <> segmented.monetary
    or grouped.customer_group <> segmented.customer_group
    or grouped.customer_group <> coalesce(segmented.group_of_segment, '')
order by 1
