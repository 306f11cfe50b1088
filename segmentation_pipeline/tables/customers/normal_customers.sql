select customer_id, recency, frequency, monetary
from rfm_features
anti join outlier_customers using (customer_id)
where inactive_segment(frequency, monetary, refunds) is null
