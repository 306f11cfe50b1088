-- How many customers did each segment win and lose this month, and why?
-- `behaviour`: the customer bought, or did not. `new`: the first run in which the customer was there. `model`: a new
-- model became active, so the move says nothing about the customer.
with month as (
    select date_trunc('month', max(as_of) - interval 1 second) as begins_at
    from customer_segments
),

moves as (
    select to_segment as segment_key, reason, as_of, 1 as joined, 0 as departed
    from segment_changes
    union all
    select from_segment, reason, as_of, 0, 1
    from segment_changes
)

select segment, reason, sum(joined) as joined, sum(departed) as departed, sum(joined) - sum(departed) as net
from moves
cross join month
inner join segments using (segment_key)
where as_of > begins_at
group by segment, reason
order by net desc, segment, reason;
