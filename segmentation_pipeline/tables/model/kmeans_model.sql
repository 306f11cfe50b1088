select
    model_id,
    fitted_as_of,
    settings_digest,
    transform,
    n_clusters,
    random_state,
    customers,
    inertia,
    silhouette
from segmentation_models
where status = 'active'
