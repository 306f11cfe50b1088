with customers as (
    select
        cast(monetary as double) as monetary,
        cast(frequency as double) as frequency,
        cast(recency as double) as recency
    from rfm_features
    where frequency > 0
),

-- The place of the last customer with each value; a list of all customers would have to fit into memory.
counted as (
    select
        feature,
        x,
        sum(count(*)) over (partition by feature order by x) - 1 as last_place,
        sum(count(*)) over (partition by feature) - 1 as highest_place
    from customers unpivot (x for feature in (monetary, frequency, recency))
    group by feature, x
),

placed as (
    select
        feature,
        cast(cut as integer) as cut,
        cut * highest_place / 5.0e0 as place,
        min(x) filter (where last_place >= floor(place)) as low,
        min(x) filter (where last_place >= ceil(place)) as high
    from counted
    cross join range(1, 5) as cuts(cut)
    group by feature, cut, highest_place
)

-- Interpolated between neighbours, as numpy does; `quantile_cont` rounds the place differently.
select feature, cut, low + (high - low) * (place - floor(place)) as threshold
from placed
