with customers as (
    select * from scaled_customers
),

centroids as (
    select * from kmeans_centroids
),

previous as (
    select * from previous_segments
),

distances as (
    select
        customers.customer_id,
        centroids.cluster,
        centroids.segment_key,
        sqrt(
            pow(customers.scaled_monetary - centroids.scaled_monetary, 2)
            + pow(customers.scaled_frequency - centroids.scaled_frequency, 2)
            + pow(customers.scaled_recency - centroids.scaled_recency, 2)
        ) as distance
    from customers
    cross join centroids
),

ranked as (
    select
        distances.customer_id,
        distances.cluster,
        distances.segment_key,
        distances.distance,
        row_number() over (partition by distances.customer_id order by distances.distance, distances.segment_key) as place,
        lead(distances.distance) over (
            partition by distances.customer_id order by distances.distance, distances.segment_key
        ) as second_distance,
        max(case when previous.segment_key = distances.segment_key then distances.distance end) over (
            partition by distances.customer_id
        ) as previous_distance
    from distances
    left join previous on distances.customer_id = previous.customer_id
)

select customer_id, cluster, segment_key, distance, second_distance, previous_distance
from ranked
where place = 1
