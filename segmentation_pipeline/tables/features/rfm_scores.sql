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
        max(case when feature = 'recency' and cut = 1 then threshold end) as recency_1,
        max(case when feature = 'recency' and cut = 2 then threshold end) as recency_2,
        max(case when feature = 'recency' and cut = 3 then threshold end) as recency_3,
        max(case when feature = 'recency' and cut = 4 then threshold end) as recency_4,
        max(case when feature = 'frequency' and cut = 1 then threshold end) as frequency_1,
        max(case when feature = 'frequency' and cut = 2 then threshold end) as frequency_2,
        max(case when feature = 'frequency' and cut = 3 then threshold end) as frequency_3,
        max(case when feature = 'frequency' and cut = 4 then threshold end) as frequency_4,
        max(case when feature = 'monetary' and cut = 1 then threshold end) as monetary_1,
        max(case when feature = 'monetary' and cut = 2 then threshold end) as monetary_2,
        max(case when feature = 'monetary' and cut = 3 then threshold end) as monetary_3,
        max(case when feature = 'monetary' and cut = 4 then threshold end) as monetary_4
    from thresholds
),

cuts_below as (
    select
        features.customer_id,
        cast(features.recency > cuts.recency_1 as integer)
            + cast(features.recency > cuts.recency_2 as integer)
            + cast(features.recency > cuts.recency_3 as integer)
            + cast(features.recency > cuts.recency_4 as integer) as recency,
        cast(features.frequency > cuts.frequency_1 as integer)
            + cast(features.frequency > cuts.frequency_2 as integer)
            + cast(features.frequency > cuts.frequency_3 as integer)
            + cast(features.frequency > cuts.frequency_4 as integer) as frequency,
        cast(cast(features.monetary as double) > cuts.monetary_1 as integer)
            + cast(cast(features.monetary as double) > cuts.monetary_2 as integer)
            + cast(cast(features.monetary as double) > cuts.monetary_3 as integer)
            + cast(cast(features.monetary as double) > cuts.monetary_4 as integer) as monetary
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

select
    scored.customer_id, scored.recency_score, scored.frequency_score, scored.monetary_score,
    segment_map.rfm_segment
from scored
inner join segment_map
    on scored.recency_score = segment_map.recency_score
    and scored.frequency_score = segment_map.frequency_score
    and scored.monetary_score = segment_map.monetary_score
