-- One row per point of a Lorenz curve: of all customers ('all'), and of each outlier segment.
with customers as (
    select 'all' as segment_key, greatest(monetary, 0) as money
    from customer_segments
    union all
    select segment_key, greatest(monetary, 0)
    from customer_segments
    where customer_group = 'outlier'
),

ranked as (
    select
        segment_key,
        row_number() over by_money as place,
        count(*) over (partition by segment_key) as customers,
        sum(money) over by_money as money,
        sum(money) over (partition by segment_key) as total
    from customers
    window by_money as (partition by segment_key order by money rows unbounded preceding)
)

select
    segment_key,
    place / customers as customer_share,
    cast(money as double) / cast(total as double) as revenue_share,
    customers
from ranked
where
    total > 0
    and (floor(place * 50 / customers) > floor((place - 1) * 50 / customers) or place = customers)
order by segment_key, place
