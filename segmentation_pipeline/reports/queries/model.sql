-- One row for the active model.
select model_id, fitted_as_of, transform, n_clusters, random_state, customers, silhouette
from kmeans_model
