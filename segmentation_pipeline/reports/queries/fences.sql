-- One row per fenced feature.
select feature, lower_fence, upper_fence
from outlier_fences
order by feature
