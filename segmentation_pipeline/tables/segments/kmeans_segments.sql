with customers as (
    select * from normal_customers
),

nearest as (
    select * from nearest_centroids
)

select
    customers.customer_id,
    nearest.cluster,
    nearest.segment_key,
    nearest.distance,
    nearest.second_distance
from customers
inner join nearest on customers.customer_id = nearest.customer_id
