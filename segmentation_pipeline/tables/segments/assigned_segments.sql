with nearest as (
    select * from nearest_segments
),

centroids as (
    select * from nearest_centroids
),

normal as (
    select * from kmeans_segments
),

outliers as (
    select * from outlier_segments
),

inactive as (
    select * from inactive_customers
),

previous as (
    select * from previous_segments
),

-- Left only for a centroid that is clearly nearer, unless it was held off the nearest for too long.
assigned as (
    select
        normal.customer_id,
        case
            when previous.pending_days >= $max_pending_days then normal.segment_key
            when normal.distance > (1 - $margin) * centroids.previous_distance then previous.segment_key
            else normal.segment_key
        end as segment_key,
        case
            when normal.second_distance > 0 then 1 - normal.distance / normal.second_distance
            else 0
        end as margin
    from normal
    inner join centroids on normal.customer_id = centroids.customer_id
    left join previous on normal.customer_id = previous.customer_id
    union all
    select customer_id, segment_key, null
    from outliers
    union all
    select customer_id, segment_key, null
    from inactive
)

select
    assigned.customer_id,
    assigned.segment_key,
    nearest.segment_key as nearest_key,
    assigned.segment_key <> nearest.segment_key as is_move_pending,
    assigned.margin
from assigned
inner join nearest on assigned.customer_id = nearest.customer_id
