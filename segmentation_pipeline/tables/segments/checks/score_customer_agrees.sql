-- one row is one customer to whom the release's function gives another segment than `nearest_segments`
with features as (
    select * from rfm_features
),

nearest as (
    select * from nearest_segments
),

catalogue as (
    select * from segments
),

scored as (
    select customer_id, score_customer(monetary, frequency, recency) as segment
    from features
)

select
    scored.customer_id,
    catalogue.segment as nearest_segments,
    'score_customer' as other,
    scored.segment as by_other
from scored
inner join nearest on scored.customer_id = nearest.customer_id
inner join catalogue on nearest.segment_key = catalogue.segment_key
where scored.segment is distinct from catalogue.segment
