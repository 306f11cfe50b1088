-- One row per outlier segment, most revenue first.
select
    segment_key, segment, customers, customer_share, revenue, revenue_share, gini, top_10_share, lapsing_customers,
    revenue_at_risk
from outlier_profiles
order by revenue desc, segment_key
