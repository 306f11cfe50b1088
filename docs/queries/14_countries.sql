-- Which countries have the best customers?
-- `country` is the one in which a customer has spent most. A source without countries leaves it empty.
select
    country,
    count(*) as customers,
    sum(customer_segments.monetary) as revenue,
    round(100.0 * count(*) filter (where segment_key in ('reward', 'pamper', 'delight')) / count(*), 1) as best_percent,
    round(100.0 * count(*) filter (where is_lapsing) / count(*), 1) as lapsing_percent
from customer_segments
inner join rfm_features using (customer_id)
group by country
order by revenue desc, country
limit 10;
