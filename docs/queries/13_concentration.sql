-- How much of the revenue comes from the customers who spend most?
-- Customers in ten groups of equal size, by spend, with the number of outliers in each.
with ranked as (
    select customer_group, monetary, ntile(10) over (order by monetary desc, customer_id) as tenth
    from customer_segments
)

select
    tenth,
    count(*) as customers,
    min(monetary) as least_spend,
    sum(monetary) as revenue,
    round(cast(100 * sum(monetary) / sum(sum(monetary)) over () as double), 1) as percent_of_revenue,
    count(*) filter (where customer_group = 'outlier') as outliers
from ranked
group by tenth
order by tenth;
