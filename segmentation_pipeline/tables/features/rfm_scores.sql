with cuts as (
    select
        list(threshold) filter (where feature = 'recency') as recency,
        list(threshold) filter (where feature = 'frequency') as frequency,
        list(threshold) filter (where feature = 'monetary') as monetary
    from rfm_thresholds
),

scores as (
    select
        features.customer_id,
        cast(5 - len([cut for cut in cuts.recency if features.recency > cut]) as integer) as recency_score,
        cast(1 + len([cut for cut in cuts.frequency if features.frequency > cut]) as integer) as frequency_score,
        cast(1 + len([cut for cut in cuts.monetary if features.monetary > cut]) as integer) as monetary_score
    from rfm_features as features
    cross join cuts
)

select customer_id, recency_score, frequency_score, monetary_score, rfm_segment
from scores
inner join rfm_segment_map using (recency_score, frequency_score, monetary_score)
