with outliers as (
    select * from outlier_customers
)

-- A long absence is less value, as little money is: its high side is the one to examine.
select
    customer_id,
    case
        when monetary_side = 'low' or frequency_side = 'low' or recency_side = 'high' then 'examine'
        when monetary_side = 'high' and frequency_side = 'high' then 'delight'
        when monetary_side = 'high' then 'pamper'
        when frequency_side = 'high' then 'upsell'
        else 'examine'
    end as segment_key
from outliers
