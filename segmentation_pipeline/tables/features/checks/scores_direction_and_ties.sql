-- One row per pair of scores in which the higher score holds a value no better than one of the lower score.
with scored as (
    select
        rfm_features.recency,
        rfm_features.frequency,
        cast(rfm_features.monetary as double) as monetary,
        rfm_scores.recency_score,
        rfm_scores.frequency_score,
        rfm_scores.monetary_score
    from rfm_features
    inner join rfm_scores on rfm_features.customer_id = rfm_scores.customer_id
),

long as (
    select 'recency' as feature, recency_score as score, cast(-recency as double) as goodness from scored
    union all
    select 'frequency', frequency_score, cast(frequency as double) from scored
    union all
    select 'monetary', monetary_score, monetary from scored
),

spans as (
    select feature, score, min(goodness) as worst, max(goodness) as best
    from long
    group by feature, score
)

select
    low.feature,
    low.score as lower_score,
    high.score as higher_score,
    abs(low.best) as value_scored_lower,
    abs(high.worst) as value_scored_higher
from spans as low
inner join spans as high on low.feature = high.feature and low.score < high.score and low.best >= high.worst
order by 1, 2, 3
