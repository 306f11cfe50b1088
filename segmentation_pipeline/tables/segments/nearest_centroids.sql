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

-- Of equally near centroids, the one with the lowest segment key.
select
    customer_id,
    arg_min(cluster, (distance, distances.segment_key)) as cluster,
    arg_min(distances.segment_key, (distance, distances.segment_key)) as segment_key,
    min(distance) as distance,
    min(distance, 2)[2] as second_distance,
    max(distance) filter (where distances.segment_key = previous.segment_key) as previous_distance
from distances
left join previous_segments as previous using (customer_id)
group by customer_id
