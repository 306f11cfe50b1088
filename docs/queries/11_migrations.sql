-- Between which segments did customers move in the last full month?
-- `new` is a customer whose first line is of this month. Customers who stayed are left out here.
select
    cast(month_end as date) as month_end,
    from_segment,
    to_segment,
    customers,
    round(100.0 * customers / sum(customers) over (partition by from_segment), 1) as percent_of_from_segment
from segment_migrations
where month_end = (select max(month_end) from segment_migrations)
qualify from_segment <> to_segment
order by customers desc, from_segment, to_segment
limit 10;
