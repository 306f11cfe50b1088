-- one row is one of the four cuts of a feature into five scores
with features as (
    select * from rfm_features where frequency > 0
),

cuts as (
    select * from (values (1, 0.2), (2, 0.4), (3, 0.6), (4, 0.8)) as listed(cut, quantile)
),

quantiles as (
    select
        quantile_cont(cast(monetary as double), [0.2, 0.4, 0.6, 0.8]) as monetary,
        quantile_cont(cast(frequency as double), [0.2, 0.4, 0.6, 0.8]) as frequency,
        quantile_cont(cast(recency as double), [0.2, 0.4, 0.6, 0.8]) as recency
    from features
),

long as (
    select 'monetary' as feature, cuts.cut, quantiles.monetary[cuts.cut] as threshold from quantiles cross join cuts
    union all
    select 'frequency', cuts.cut, quantiles.frequency[cuts.cut] from quantiles cross join cuts
    union all
    select 'recency', cuts.cut, quantiles.recency[cuts.cut] from quantiles cross join cuts
)

select feature, cast(cut as integer) as cut, threshold
from long
