with centroids as (
    select
        list({
            'cluster': cluster,
            'segment_key': segment_key,
            'monetary': scaled_monetary,
            'frequency': scaled_frequency,
            'recency': scaled_recency
        }) as all_centroids
    from kmeans_centroids
    having count(*) > 0
),

-- A list for each customer, and no rows to group: these take memory that DuckDB cannot write to the disk.
-- Of equally near centroids, the one with the lowest segment key.
distances as (
    select
        customers.customer_id,
        list_sort([
            {
                'distance': scaled_distance(
                    customers.scaled_monetary, customers.scaled_frequency, customers.scaled_recency,
                    centroid.monetary, centroid.frequency, centroid.recency
                ),
                'segment_key': centroid.segment_key,
                'cluster': centroid.cluster
            }
            for centroid in centroids.all_centroids
        ]) as nearest
    from scaled_customers as customers
    cross join centroids
)

select
    customer_id,
    distances.nearest[1].cluster as cluster,
    distances.nearest[1].segment_key as segment_key,
    distances.nearest[1].distance as distance,
    distances.nearest[2].distance as second_distance,
    list_filter(distances.nearest, lambda other: other.segment_key = previous.segment_key)[1].distance
        as previous_distance
from distances
left join previous_segments as previous using (customer_id)
