with active as (
    select * from rfm_features where frequency > 0 and monetary > 0
),

outliers as (
    select * from outlier_customers
)

select active.customer_id, active.recency, active.frequency, active.monetary
from active
left join outliers on active.customer_id = outliers.customer_id
where outliers.customer_id is null
