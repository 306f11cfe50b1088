-- One row per segment and month end of the last 24.
select month_end, segment_key, is_comparable, count(*) as customers
from segment_history
where month_end > (select max(month_end) - interval '24' month from segment_history)
group by all
order by month_end, segment_key
