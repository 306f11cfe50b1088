with features as (
    select * from rfm_features
),

scores as (
    select * from rfm_scores
),

assigned as (
    select * from assigned_segments
),

previous as (
    select * from previous_segments
),

catalogue as (
    select * from segments
),

model as (
    select * from kmeans_model
)

select
    features.customer_id,
    catalogue.segment,
    catalogue.segment_key,
    nearest.segment as nearest_segment,
    assigned.is_move_pending,
    assigned.margin,
    before.segment as previous_segment,
    case when previous.segment_key = assigned.segment_key then previous.segment_since else features.as_of end as segment_since,
    substr(md5(features.customer_id), 1, 8) < $control_below as is_control,
    catalogue.customer_group,
    features.recency,
    features.frequency,
    features.monetary,
    features.recency > cast($lapsing_factor as double) * features.inter_purchase_time as is_lapsing,
    scores.recency_score,
    scores.frequency_score,
    scores.monetary_score,
    scores.rfm_segment,
    catalogue.action,
    features.as_of,
    model.model_id
from features
inner join scores on features.customer_id = scores.customer_id
inner join assigned on features.customer_id = assigned.customer_id
inner join catalogue on assigned.segment_key = catalogue.segment_key
inner join catalogue as nearest on assigned.nearest_key = nearest.segment_key
left join previous on features.customer_id = previous.customer_id
left join catalogue as before on previous.segment_key = before.segment_key
cross join model
