with customers as (
    select
        cast(monetary as double) as monetary,
        cast(frequency as double) as frequency,
        cast(recency as double) as recency
    from rfm_features
    where frequency > 0
),

sorted as (
    select feature, list(x order by x) as x, count(*) - 1 as last_place
    from customers unpivot (x for feature in (monetary, frequency, recency))
    group by feature
),

placed as (
    select
        feature,
        cast(cut as integer) as cut,
        cut * last_place / 5.0e0 as place,
        x[1 + cast(floor(place) as bigint)] as low,
        x[1 + cast(ceil(place) as bigint)] as high
    from sorted
    cross join range(1, 5) as cuts(cut)
)

-- Interpolated between neighbours, as numpy does; `quantile_cont` rounds the place differently.
select feature, cut, low + (high - low) * (place - floor(place)) as threshold
from placed
