-- One row per month end, population and segmentation, with the Gini of later spend.
select month_end, population, segmentation, value, low, high, segments_lead_low, segments_lead_high
from backtest_metrics
where metric = 'gini'
order by month_end, population, segmentation
