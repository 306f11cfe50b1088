-- Which customers should we call next?
-- Of those who are lapsing, the ones with the most spend for each year since their first purchase: it is high for
-- customers who spend much and have not been away for long. The control group is left out; otherwise nobody can say
-- later what the calls changed.
select
    customer_id,
    segment,
    round(cast(365 * customer_segments.monetary as double) / greatest(tenure, 90), 0) as spend_per_year,
    customer_segments.monetary,
    cast(last_purchase_at as date) as last_purchase,
    round(inter_purchase_time, 0) as usual_days_between,
    customer_segments.recency as days_away
from customer_segments
inner join rfm_features using (customer_id)
where is_lapsing
    and not is_control
order by spend_per_year desc, customer_id
limit 10;
