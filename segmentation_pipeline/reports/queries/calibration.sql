-- One row per tenth of the customers of 90 days ago, with what was expected of them and what they spent.
select decile, customers, expected_spend, actual_spend, naive_spend
from customer_value_calibration
order by decile
