-- One row per centroid of the active model, in natural units.
select segment_key, mean_monetary as monetary, mean_frequency as frequency, mean_recency as recency
from kmeans_centroids
order by segment_key
