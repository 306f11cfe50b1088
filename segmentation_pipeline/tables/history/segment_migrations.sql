with history as (
    select * from segment_history where is_comparable
),

bounds as (
    select min(month_end) as first_end from history
),

ways as (
    select
        history.month_end,
        coalesce(earlier.segment_key, 'new') as from_segment,
        history.segment_key as to_segment
    from history
    cross join bounds
    left join history as earlier
        on history.customer_id = earlier.customer_id
        and history.month_end = earlier.month_end + interval '1' month
    where history.month_end > bounds.first_end
)

select
    month_end,
    from_segment,
    to_segment,
    cast(count(*) as bigint) as customers
from ways
group by month_end, from_segment, to_segment
