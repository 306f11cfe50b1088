select
    features.customer_id,
    catalogue.segment,
    catalogue.segment_key,
    nearest.segment as nearest_segment,
    assigned.is_move_pending,
    assigned.margin,
    before.segment as previous_segment,
    case
        when previous.segment_key = assigned.segment_key then previous.segment_since
        else features.as_of
    end as segment_since,
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
from rfm_features as features
inner join rfm_scores as scores using (customer_id)
inner join assigned_segments as assigned using (customer_id)
inner join segments as catalogue on assigned.segment_key = catalogue.segment_key
inner join segments as nearest on assigned.nearest_key = nearest.segment_key
left join previous_segments as previous using (customer_id)
left join segments as before on previous.segment_key = before.segment_key
cross join kmeans_model as model
