select centroids.* exclude (model_id)
from model_centroids as centroids
inner join segmentation_models as models using (model_id)
where models.status = 'active'
