with distances as (
    select
        customers.customer_id,
        centroids.cluster,
        centroids.segment_key,
        scaled_distance(
            customers.scaled_monetary, customers.scaled_frequency, customers.scaled_recency,
            centroids.scaled_monetary, centroids.scaled_frequency, centroids.scaled_recency
        ) as distance
    from scaled_customers as customers
    cross join kmeans_centroids as centroids
)

select
    distances.*,
    lead(distance) over nearest as second_distance,
    max(distance) filter (where distances.segment_key = previous.segment_key) over (
        partition by customer_id
    ) as previous_distance
from distances
left join previous_segments as previous using (customer_id)
window nearest as (partition by customer_id order by distance, distances.segment_key)
qualify row_number() over nearest = 1
