select customer_id, outlier_segment(monetary_side, frequency_side, recency_side) as segment_key
from outlier_customers
