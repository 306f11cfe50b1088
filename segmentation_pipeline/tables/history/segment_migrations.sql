with history as (
    select * from segment_history where is_comparable
)

select
    month_end,
    coalesce(earlier.segment_key, 'new') as from_segment,
    later.segment_key as to_segment,
    count(*) as customers
from history as later
left join (select * replace (month_end + interval '1' month as month_end) from history) as earlier
    using (customer_id, month_end)
where month_end > (select min(month_end) from history)
group by all
