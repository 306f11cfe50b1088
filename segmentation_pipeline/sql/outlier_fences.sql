-- one row is one feature with its Tukey fences
with active as (
    select * from rfm_features where frequency > 0 and monetary > 0
),

long as (
    select 'monetary' as feature, cast(monetary as double) as x, as_of from active
    union all
    select 'frequency', cast(frequency as double), as_of from active
    union all
    select 'recency', cast(recency as double), as_of from active
),

ranked as (
    select
        feature,
        x,
        as_of,
        row_number() over (partition by feature order by x) - 1 as place,
        0.25e0 * (count(*) over (partition by feature) - 1) as first_place,
        0.75e0 * (count(*) over (partition by feature) - 1) as third_place
    from long
    where list_contains($outlier_features, feature)
),

neighbours as (
    select
        feature,
        max(case when place = floor(first_place) then x end) as below_first,
        max(case when place = ceil(first_place) then x end) as above_first,
        max(first_place - floor(first_place)) as part_first,
        max(case when place = floor(third_place) then x end) as below_third,
        max(case when place = ceil(third_place) then x end) as above_third,
        max(third_place - floor(third_place)) as part_third,
        max(as_of) as fitted_as_of
    from ranked
    group by feature
),

-- Interpolated between neighbours, as by numpy; spelt out, because engines differ in what they call a quantile.
quartiles as (
    select
        feature,
        below_first + (above_first - below_first) * part_first as q1,
        below_third + (above_third - below_third) * part_third as q3,
        fitted_as_of
    from neighbours
)

-- Tukey (1977), "Exploratory Data Analysis": beyond 1.5 interquartile ranges from the quartiles.
select
    feature,
    q1,
    q3,
    cast($factor as double) as factor,
    q1 - cast($factor as double) * (q3 - q1) as lower_fence,
    q3 + cast($factor as double) * (q3 - q1) as upper_fence,
    fitted_as_of,
    $fences_digest as settings_digest
from quartiles
