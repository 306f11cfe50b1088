select customer_id, cluster, segment_key, distance, second_distance
from nearest_centroids
semi join normal_customers using (customer_id)
