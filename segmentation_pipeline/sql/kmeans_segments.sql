-- one row is one normal customer with its nearest centroid
with customers as (
    select * from normal_customers
),

scaler as (
    select * from kmeans_scaler
),

centroids as (
    select * from kmeans_centroids
),

long as (
    select customer_id, 'monetary' as feature, cast(monetary as double) as x from customers
    union all
    select customer_id, 'frequency', cast(frequency as double) from customers
    union all
    select customer_id, 'recency', cast(recency as double) from customers
),

-- Yeo & Johnson (2000); the branches for exponents 0 and 2 are limits of the others.
transformed as (
    select
        long.customer_id,
        long.feature,
        case
            when scaler.transform = 'log' then ln(1 + long.x)
            when scaler.transform <> 'yeo-johnson' then long.x
            when long.x >= 0 and scaler.exponent = 0 then ln(1 + long.x)
            when long.x >= 0 then (pow(1 + long.x, scaler.exponent) - 1) / scaler.exponent
            when scaler.exponent = 2 then -ln(1 - long.x)
            else -(pow(1 - long.x, 2 - scaler.exponent) - 1) / (2 - scaler.exponent)
        end as y,
        scaler.center,
        scaler.scale
    from long
    inner join scaler on long.feature = scaler.feature
),

scaled as (
    select
        customer_id,
        max(case when feature = 'monetary' then (y - center) / scale end) as monetary,
        max(case when feature = 'frequency' then (y - center) / scale end) as frequency,
        max(case when feature = 'recency' then (y - center) / scale end) as recency
    from transformed
    group by customer_id
),

distances as (
    select
        scaled.customer_id,
        centroids.cluster,
        centroids.segment_key,
        sqrt(
            pow(scaled.monetary - centroids.scaled_monetary, 2)
            + pow(scaled.frequency - centroids.scaled_frequency, 2)
            + pow(scaled.recency - centroids.scaled_recency, 2)
        ) as distance
    from scaled
    cross join centroids
),

ranked as (
    select
        *,
        row_number() over (partition by customer_id order by distance, segment_key) as place,
        lead(distance) over (partition by customer_id order by distance, segment_key) as second_distance
    from distances
)

select customer_id, cluster, segment_key, distance, second_distance
from ranked
where place = 1
