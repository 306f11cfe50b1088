-- One row per segment whose customers have an expected spend.
select segment_key, expected_spend_90, expected_spend_365, mean_expected_spend_365, spend_at_risk_365
from segment_profiles
where expected_spend_365 is not null
order by expected_spend_365 desc, segment_key
