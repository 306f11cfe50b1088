select feature, transform, exponent, center, scale
from model_features
inner join segmentation_models using (model_id)
where status = 'active'
