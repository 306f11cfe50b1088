with active as (
    select
        customer_id,
        cast(monetary as double) as monetary,
        cast(frequency as double) as frequency,
        cast(recency as double) as recency
    from rfm_features
    where inactive_segment(frequency, monetary, refunds) is null
),

features as (
    select customer_id, feature, x
    from active unpivot (x for feature in (monetary, frequency, recency))
),

-- A customer crosses a fence only beyond a margin. New customers, formerly inactive ones, and those whose move has been
-- pending for too long have none.
fenced as (
    select
        features.*,
        fences.lower_fence,
        fences.upper_fence,
        case
            when previous.segment_key is null
                or previous.segment_key in ('dormant', 'refunded', 'no_spend')
                or previous.pending_days >= $max_pending_days
                then 0
            else $fence_margin
        end as margin,
        -- The segment says beyond which fences the customer was.
        case
            when (previous.segment_key, features.feature) in (
                ('delight', 'monetary'), ('delight', 'frequency'), ('pamper', 'monetary'), ('upsell', 'frequency'),
                ('examine', 'recency')
            ) then -margin
            else margin
        end as upper_margin,
        case when previous.segment_key = 'examine' then -margin else margin end as lower_margin
    from features
    inner join outlier_fences as fences using (feature)
    left join previous_segments as previous using (customer_id)
)

select
    customer_id,
    feature,
    fence_side(x, lower_fence, upper_fence) as nearest_side,
    fence_side(
        x, lower_fence - lower_margin * abs(lower_fence), upper_fence + upper_margin * abs(upper_fence)
    ) as side,
    case nearest_side when 'high' then x - upper_fence when 'low' then x - lower_fence else 0 end as beyond
from fenced
