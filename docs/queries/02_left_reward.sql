-- Who left REWARD this month, and what are they worth?
-- `segment_changes` has every change that was published, with its time and reason. A time in a release is the end of
-- the data: midnight of the 1st belongs to the month before. A customer who left and came back is not listed.
with month as (
    select date_trunc('month', max(as_of) - interval 1 second) as begins_at
    from customer_segments
)

select
    now.customer_id,
    changed.as_of as left_at,
    changed.reason,
    now.segment as segment_now,
    now.monetary,
    now.recency
from segment_changes as changed
cross join month
inner join customer_segments as now using (customer_id)
where changed.from_segment = 'reward'
    and changed.as_of > month.begins_at
    and now.segment_key <> 'reward'
qualify row_number() over (partition by customer_id order by changed.as_of desc) = 1
order by now.monetary desc, now.customer_id;
