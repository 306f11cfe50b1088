-- How do the cohorts by first purchase develop?
-- Customers by the quarter of their first purchase: how many still buy, and what one has spent so far. Older cohorts
-- have had more time to spend.
select
    cast(date_trunc('quarter', first_purchase_at) as date) as first_quarter,
    count(*) as customers,
    round(100.0 * count(*) filter (where frequency > 1) / count(*), 1) as bought_again_percent,
    round(100.0 * count(*) filter (where recency <= 90) / count(*), 1) as bought_in_last_90_days_percent,
    round(avg(frequency), 1) as mean_orders,
    round(cast(avg(monetary) as double), 0) as mean_spend
from rfm_features
where first_purchase_at is not null
group by first_quarter
order by first_quarter;
