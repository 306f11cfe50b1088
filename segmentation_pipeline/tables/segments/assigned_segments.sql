with assigned as (
    -- A customer stays until another centroid is clearly nearer, or until the move has been pending for too long.
    select
        normal.customer_id,
        case
            when previous.pending_days < $max_pending_days
                and normal.distance > (1 - $margin) * centroids.previous_distance
                then previous.segment_key
            else normal.segment_key
        end as segment_key,
        case
            when normal.second_distance > 0 then 1 - normal.distance / normal.second_distance
            else 0
        end as margin
    from kmeans_segments as normal
    inner join nearest_centroids as centroids using (customer_id)
    left join previous_segments as previous using (customer_id)
    union all
    select customer_id, segment_key, null
    from outlier_segments
    union all
    select customer_id, segment_key, null
    from inactive_customers
)

select
    assigned.customer_id,
    assigned.segment_key,
    nearest.segment_key as nearest_key,
    assigned.segment_key <> nearest.segment_key as is_move_pending,
    assigned.margin
from assigned
inner join nearest_segments as nearest using (customer_id)
