with models as (
    select * from segmentation_models
),

features as (
    select * from model_features
)

select
    features.feature,
    models.transform,
    features.exponent,
    features.center,
    features.scale
from features
inner join models on features.model_id = models.model_id
where models.status = 'active'
