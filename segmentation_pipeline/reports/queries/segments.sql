-- One row per segment that has customers.
select
    segment_key, segment, customer_group, description, action, customers, customer_share, revenue, revenue_share,
    mean_monetary, median_monetary, mean_frequency, median_frequency, mean_recency, median_recency
from segment_profiles
order by revenue desc, segment_key
