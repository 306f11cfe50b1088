with models as (
    select * from segmentation_models
),

centroids as (
    select * from model_centroids
)

select
    centroids.cluster,
    centroids.segment_key,
    centroids.customers,
    centroids.scaled_monetary,
    centroids.scaled_frequency,
    centroids.scaled_recency,
    centroids.mean_monetary,
    centroids.mean_frequency,
    centroids.mean_recency
from centroids
inner join models on centroids.model_id = models.model_id
where models.status = 'active'
