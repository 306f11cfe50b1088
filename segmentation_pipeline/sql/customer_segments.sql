-- one row is one customer, with its segment
with features as (
    select * from rfm_features
),

scores as (
    select * from rfm_scores
),

normal as (
    select * from kmeans_segments
),

outliers as (
    select * from outlier_segments
),

inactive as (
    select * from inactive_customers
),

catalogue as (
    select * from segments
),

model as (
    select * from kmeans_model
),

assigned as (
    select customer_id, segment_key from normal
    union all
    select customer_id, segment_key from outliers
    union all
    select customer_id, segment_key from inactive
)

select
    features.customer_id,
    catalogue.segment,
    catalogue.segment_key,
    catalogue.segment as nearest_segment,
    catalogue.customer_group,
    features.recency,
    features.frequency,
    features.monetary,
    features.recency > cast($slipping_factor as double) * features.expected_gap as is_slipping,
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
cross join model
