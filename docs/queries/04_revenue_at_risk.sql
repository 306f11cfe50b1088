-- How much revenue is at risk?
-- A customer is lapsing who has been away for longer than its own habit explains (`is_lapsing`). At risk is what these
-- customers have spent so far. `outlier_profiles` has the same numbers of the outlier segments.
select
    segment,
    count(*) as lapsing_customers,
    round(100.0 * count(*) / segment_profiles.customers, 1) as percent_of_customers,
    sum(monetary) as revenue_at_risk,
    round(cast(100 * sum(monetary) / nullif(segment_profiles.revenue, 0) as double), 1) as percent_of_revenue
from customer_segments
inner join segment_profiles using (segment)
where is_lapsing
group by segment, segment_profiles.customers, segment_profiles.revenue
order by revenue_at_risk desc;
