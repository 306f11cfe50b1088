with active as (
    select * from rfm_features where frequency > 0 and monetary > 0
),

scaler as (
    select * from kmeans_scaler
),

long as (
    select customer_id, 'monetary' as feature, cast(monetary as double) as x from active
    union all
    select customer_id, 'frequency', cast(frequency as double) from active
    union all
    select customer_id, 'recency', cast(recency as double) from active
),

-- Yeo & Johnson (2000); the branches for exponents 0 and 2 are limits of the others.
transformed as (
    select
        long.customer_id,
        long.feature,
        case
            when scaler.transform = 'log' then ln(1 + long.x)
            when scaler.transform <> 'yeo-johnson' then long.x
            when long.x >= 0 and scaler.exponent = 0 then ln(1 + long.x)
            when long.x >= 0 then (pow(1 + long.x, scaler.exponent) - 1) / scaler.exponent
            when scaler.exponent = 2 then -ln(1 - long.x)
            else -(pow(1 - long.x, 2 - scaler.exponent) - 1) / (2 - scaler.exponent)
        end as y,
        scaler.center,
        scaler.scale
    from long
    inner join scaler on long.feature = scaler.feature
)

select
    customer_id,
    max(case when feature = 'monetary' then (y - center) / scale end) as scaled_monetary,
    max(case when feature = 'frequency' then (y - center) / scale end) as scaled_frequency,
    max(case when feature = 'recency' then (y - center) / scale end) as scaled_recency
from transformed
group by customer_id
