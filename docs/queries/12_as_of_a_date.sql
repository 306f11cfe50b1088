-- Where are the customers now who were in RE-ENGAGE on a date?
-- What was published at a time is the row of `segment_membership` that was valid then. With `customer_id` instead of
-- `segment_key`, the query answers what one customer was.
select
    now.segment as segment_now,
    count(*) as customers,
    round(100.0 * count(*) / sum(count(*)) over (), 1) as percent,
    sum(now.monetary) as monetary_now
from segment_membership as past
inner join customer_segments as now using (customer_id)
where past.segment_key = 're_engage'
    and past.valid_from <= timestamp '2025-12-01 00:00:00'
    and (past.valid_to > timestamp '2025-12-01 00:00:00' or past.valid_to is null)
group by now.segment
order by customers desc, segment_now;
