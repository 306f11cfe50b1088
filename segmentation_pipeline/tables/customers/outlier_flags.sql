with active as (
    select * from rfm_features where frequency > 0 and monetary > 0
),

previous as (
    select * from previous_segments
),

long as (
    select customer_id, 'monetary' as feature, cast(monetary as double) as x from active
    union all
    select customer_id, 'frequency', cast(frequency as double) from active
    union all
    select customer_id, 'recency', cast(recency as double) from active
),

-- Whom the last run knew as active is held on its side by a margin, in as out; others, and who was held too long, are not.
beside as (
    select
        long.customer_id,
        long.feature,
        long.x,
        fences.lower_fence,
        fences.upper_fence,
        case
            when previous.pending_days >= $max_pending_days or previous.segment_key in ('dormant', 'refunded') then 0
            when previous.segment_key = 'delight' and long.feature in ('monetary', 'frequency') then -1
            when previous.segment_key = 'pamper' and long.feature = 'monetary' then -1
            when previous.segment_key = 'upsell' and long.feature = 'frequency' then -1
            when previous.segment_key = 'examine' and long.feature = 'recency' then -1
            when previous.segment_key is not null then 1
            else 0
        end * $fence_margin as above_margin,
        case
            when previous.pending_days >= $max_pending_days or previous.segment_key in ('dormant', 'refunded') then 0
            when previous.segment_key = 'examine' then -1
            when previous.segment_key is not null then 1
            else 0
        end * $fence_margin as below_margin
    from long
    inner join outlier_fences as fences on long.feature = fences.feature
    left join previous on long.customer_id = previous.customer_id
)

select
    customer_id,
    feature,
    case when x > upper_fence then 'high' when x < lower_fence then 'low' end as nearest_side,
    case
        when x > upper_fence + above_margin * abs(upper_fence) then 'high'
        when x < lower_fence - below_margin * abs(lower_fence) then 'low'
    end as side,
    case when x > upper_fence then x - upper_fence when x < lower_fence then x - lower_fence else 0 end as beyond
from beside
