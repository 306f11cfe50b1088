-- One row per metric of drift.
select metric, value, bound
from model_drift
order by metric
