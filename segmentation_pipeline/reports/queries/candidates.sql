-- One row per number of clusters that the last search considered.
select n_clusters, inertia, silhouette, worst_ari, is_chosen, verdict
from kmeans_candidates
order by n_clusters
