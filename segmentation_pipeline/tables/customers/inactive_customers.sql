select customer_id, recency, frequency, monetary, inactive_segment(frequency, monetary, refunds) as segment_key
from rfm_features
where segment_key is not null
