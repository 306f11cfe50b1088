-- How large is each segment, what is it worth, and what should we do?
-- The first query of a report. The table `segments` has the meaning of each segment in a sentence.
select
    segment,
    customers,
    round(100 * customer_share, 1) as customers_percent,
    revenue,
    round(100 * revenue_share, 1) as revenue_percent,
    median_recency,
    action
from segment_profiles
order by revenue desc;
