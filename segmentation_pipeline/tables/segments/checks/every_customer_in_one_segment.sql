-- One row per customer who is not once in the groups and once in the segments, with the same money and group.
with features as (
    select customer_id, monetary from rfm_features
),

split as (
    select customer_id, count(*) as times, sum(monetary) as monetary, min(customer_group) as customer_group
    from (
        select customer_id, monetary, 'normal' as customer_group from normal_customers
        union all
        select customer_id, monetary, 'outlier' from outlier_customers
        union all
        select customer_id, monetary, 'inactive' from inactive_customers
    ) as parts
    group by customer_id
),

-- A segment's group stands in the catalogue: who is marked dormant is inactive, whatever the group beside it says.
segmented as (
    select
        customer_segments.customer_id,
        count(*) as times,
        sum(customer_segments.monetary) as monetary,
        min(customer_segments.customer_group) as customer_group,
        min(segments.customer_group) as group_of_segment
    from customer_segments
    left join segments
        on customer_segments.segment_key = segments.segment_key and customer_segments.segment = segments.segment
    group by customer_segments.customer_id
)

select
    coalesce(features.customer_id, split.customer_id, segmented.customer_id) as customer_id,
    coalesce(split.times, 0) as times_in_split,
    coalesce(segmented.times, 0) as times_in_segments,
    features.monetary,
    split.monetary as monetary_in_split,
    segmented.monetary as monetary_in_segments,
    split.customer_group as group_in_split,
    segmented.customer_group as group_in_segments,
    segmented.group_of_segment
from features
full outer join split on features.customer_id = split.customer_id
full outer join segmented on coalesce(features.customer_id, split.customer_id) = segmented.customer_id
where
    features.customer_id is null
    or coalesce(split.times, 0) <> 1
    or coalesce(segmented.times, 0) <> 1
    or features.monetary <> split.monetary
    or features.monetary <> segmented.monetary
    or split.customer_group <> segmented.customer_group
    or split.customer_group <> coalesce(segmented.group_of_segment, '')
order by 1
