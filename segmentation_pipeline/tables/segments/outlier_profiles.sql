with outliers as (
    select
        *,
        row_number() over (partition by segment_key order by monetary, customer_id) as place,
        row_number() over (partition by segment_key order by monetary desc, customer_id) as place_from_top
    from customer_segments
    where customer_group = 'outlier'
),

totals as (
    select count(*) as customers, sum(monetary) as revenue
    from customer_segments
),

profiles as (
    select
        segment_key,
        segment,
        count(*) as customers,
        sum(monetary) as revenue,
        sum(place * monetary) as revenue_by_place,
        sum(monetary) filter (where place_from_top <= 10) as revenue_of_top_10,
        count(*) filter (where is_lapsing) as lapsing_customers,
        coalesce(sum(monetary) filter (where is_lapsing), 0) as revenue_at_risk,
        avg(recency) as mean_recency,
        max(as_of) as as_of
    from outliers
    group by segment_key, segment
)

-- Gini (1912), in the form for ordered values x_1 to x_n: (2 sum(i x_i) / sum(x_i) - n - 1) / n.
-- An outlier has money left after refunds, or it would be inactive: no revenue here is zero.
select
    profiles.segment_key,
    profiles.segment,
    profiles.customers,
    cast(profiles.customers as double) / totals.customers as customer_share,
    cast(profiles.revenue as decimal(38, 4)) as revenue,
    case
        when totals.revenue > 0 then cast(profiles.revenue as double) / cast(totals.revenue as double)
    end as revenue_share,
    cast(2 * profiles.revenue_by_place - (profiles.customers + 1) * profiles.revenue as double)
        / cast(profiles.customers * profiles.revenue as double) as gini,
    cast(profiles.revenue_of_top_10 as double) / cast(profiles.revenue as double) as top_10_share,
    profiles.lapsing_customers,
    cast(profiles.revenue_at_risk as decimal(38, 4)) as revenue_at_risk,
    cast(profiles.revenue_at_risk as double) / cast(profiles.revenue as double) as revenue_at_risk_share,
    profiles.mean_recency,
    profiles.as_of
from profiles
cross join totals
