with models as (
    select * from segmentation_models
)

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
from models
where status = 'active'
