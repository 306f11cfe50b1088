-- One row per number of clusters that the last search considered under the transform that it chose.
select n_clusters, inertia, silhouette, worst_ari, is_chosen, verdict
from kmeans_candidates
where transform = (select chosen.transform from kmeans_candidates as chosen where chosen.is_chosen)
order by n_clusters
