select feature, q1, q3, factor, lower_fence, upper_fence, fitted_as_of, settings_digest
from model_features
inner join segmentation_models using (model_id)
where status = 'active' and factor is not null
