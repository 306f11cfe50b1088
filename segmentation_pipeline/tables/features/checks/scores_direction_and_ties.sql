-- One row per pair of scores in which the higher score holds a value no better than one of the lower score.
with scored as (
    select
        cast(-recency as double) as recency,
        cast(frequency as double) as frequency,
        cast(monetary as double) as monetary,
        recency_score,
        frequency_score,
        monetary_score
    from rfm_features
    inner join rfm_scores using (customer_id)
),

spans as (
    select feature, score, min(goodness) as worst, max(goodness) as best
    from scored
    unpivot (
        (goodness, score) for feature in (
            (recency, recency_score) as 'recency',
            (frequency, frequency_score) as 'frequency',
            (monetary, monetary_score) as 'monetary'
        )
    )
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
order by all
