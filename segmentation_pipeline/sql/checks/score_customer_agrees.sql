-- one row is one customer to whom the release's function gives another segment than the tables
with customers as (
    select * from customer_segments
),

scored as (
    select customer_id, nearest_segment, score_customer(monetary, frequency, recency) as score_customer
    from customers
)

select customer_id, nearest_segment, score_customer
from scored
where score_customer is distinct from nearest_segment
