-- One row per customer with a purchase and money left, or of a sample that a hash selects. No row names its customer.
select
    segment_key,
    frequency,
    recency,
    round(cast(monetary as double), 2) as monetary,
    count(*) over () as all_customers
from customer_segments
where monetary > 0 and frequency > 0
order by md5(customer_id)
limit 900
