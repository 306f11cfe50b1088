-- How large was each segment at the last month ends?
-- `segment_history` computes past month ends with the active model, so that they can be compared, also of months before
-- the first run. What was published at the time is in `segment_membership`.
with months as (
    select month_end, dense_rank() over (order by month_end desc) - 1 as months_ago
    from segment_history
    group by month_end
)

select
    segment,
    count(*) filter (where months_ago = 6) as six_months_earlier,
    count(*) filter (where months_ago = 3) as three_months_earlier,
    count(*) filter (where months_ago = 1) as one_month_earlier,
    count(*) filter (where months_ago = 0) as last_month_end,
    (select cast(max(month_end) as date) from months) as month_end
from segment_history
inner join months using (month_end)
inner join segments using (segment_key)
group by segment
order by last_month_end desc, segment;
