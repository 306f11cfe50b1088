-- One row per pair of segments and month, for the last months.
select month_end, from_segment, to_segment, customers
from segment_migrations
where month_end > (select max(month_end) - interval '5' month from segment_migrations)
order by month_end, from_segment, to_segment
