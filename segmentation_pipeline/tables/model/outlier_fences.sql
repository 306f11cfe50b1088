with models as (
    select * from segmentation_models
),

features as (
    select * from model_features
)

select
    features.feature,
    features.q1,
    features.q3,
    features.factor,
    features.lower_fence,
    features.upper_fence,
    models.fitted_as_of,
    models.settings_digest
from features
inner join models on features.model_id = models.model_id
where models.status = 'active' and features.factor is not null
