-- One row per segment, with its customers who are lapsing; valuable ones are in the top fifth by money.
select
    segment_key,
    count(*) filter (where is_lapsing) as lapsing,
    coalesce(sum(monetary) filter (where is_lapsing), 0) as lapsing_revenue,
    count(*) filter (where is_lapsing and monetary_score = 5) as valuable,
    coalesce(sum(monetary) filter (where is_lapsing and monetary_score = 5), 0) as valuable_revenue
from customer_segments
group by segment_key
order by valuable_revenue desc, segment_key
