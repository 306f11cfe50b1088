-- one row is one feature with its Tukey fences
with active as (
    select * from rfm_features where frequency > 0 and monetary > 0
),

quartiles as (
    select
        quantile_cont(cast(monetary as double), [0.25, 0.75]) as monetary,
        quantile_cont(cast(frequency as double), [0.25, 0.75]) as frequency,
        quantile_cont(cast(recency as double), [0.25, 0.75]) as recency,
        max(as_of) as fitted_as_of
    from active
),

long as (
    select 'monetary' as feature, monetary[1] as q1, monetary[2] as q3, fitted_as_of from quartiles
    union all
    select 'frequency', frequency[1], frequency[2], fitted_as_of from quartiles
    union all
    select 'recency', recency[1], recency[2], fitted_as_of from quartiles
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
from long
where list_contains($outlier_features, feature)
