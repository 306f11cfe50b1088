-- One row per pair of scores.
select
    recency_score,
    frequency_score,
    count(*) as customers,
    -- Exact until it is divided: how avg adds depends on the file that it reads.
    cast(sum(monetary) as double) / count(*) as mean_monetary
from customer_segments
group by all
order by recency_score, frequency_score
