-- One row per pair of segments, with the customers in the first one in the previous release and in the second one now;
-- none where all stayed.
with pairs as (
    select
        coalesce(before.segment_key, 'new') as from_segment,
        coalesce(later.segment_key, 'gone') as to_segment,
        count(*) as customers
    from customer_segments as later
    full join previous.customer_segments as before on later.customer_id = before.customer_id
    group by all
)

select from_segment, to_segment, customers
from pairs
where (select count(*) from pairs where from_segment <> to_segment) > 0
order by customers desc, from_segment, to_segment
