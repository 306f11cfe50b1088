-- One row per pair of scores.
select
    recency_score,
    frequency_score,
    count(*) as customers,
    avg(monetary) as mean_monetary
from customer_segments
group by all
order by recency_score, frequency_score
