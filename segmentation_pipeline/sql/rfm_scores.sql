-- one row is one customer with its scores from 1 to 5
with features as (
    select * from rfm_features
),

thresholds as (
    select * from rfm_thresholds
),

segment_map as (
    select * from rfm_segment_map
),

cuts as (
    select
        list(threshold order by cut) filter (where feature = 'monetary') as monetary,
        list(threshold order by cut) filter (where feature = 'frequency') as frequency,
        list(threshold order by cut) filter (where feature = 'recency') as recency
    from thresholds
),

cuts_below as (
    select
        features.customer_id,
        cast(features.recency > cuts.recency[1] as integer)
            + cast(features.recency > cuts.recency[2] as integer)
            + cast(features.recency > cuts.recency[3] as integer)
            + cast(features.recency > cuts.recency[4] as integer) as recency,
        cast(features.frequency > cuts.frequency[1] as integer)
            + cast(features.frequency > cuts.frequency[2] as integer)
            + cast(features.frequency > cuts.frequency[3] as integer)
            + cast(features.frequency > cuts.frequency[4] as integer) as frequency,
        cast(cast(features.monetary as double) > cuts.monetary[1] as integer)
            + cast(cast(features.monetary as double) > cuts.monetary[2] as integer)
            + cast(cast(features.monetary as double) > cuts.monetary[3] as integer)
            + cast(cast(features.monetary as double) > cuts.monetary[4] as integer) as monetary
    from features
    cross join cuts
),

scored as (
    select
        customer_id,
        cast(5 - recency as integer) as recency_score,
        cast(1 + frequency as integer) as frequency_score,
        cast(1 + monetary as integer) as monetary_score
    from cuts_below
)

select scored.*, segment_map.rfm_segment
from scored
inner join segment_map using (recency_score, frequency_score, monetary_score)
