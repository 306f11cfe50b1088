with run as (
    select max(as_of) as as_of from customer_segments
),

sales as (
    select
        case when customers.customer_group = 'outlier' then customers.segment_key end as segment_key,
        month(totals.transaction_at) as month_of_year,
        sum(totals.amount) as revenue,
        count(distinct case when totals.is_purchase then totals.invoice end) as purchases
    from invoice_totals as totals
    inner join customer_segments as customers on totals.customer_id = customers.customer_id
    cross join run
    where coalesce(totals.transaction_at >= run.as_of - $look_back_days * interval '1' day, true)
    group by 1, 2
),

months as (
    select
        segment_key,
        month_of_year,
        purchases,
        revenue,
        sum(revenue) over (partition by segment_key) as total
    from sales
),

sums as (
    select max(total) as total
    from months
    where segment_key is null
)

select
    months.segment_key,
    cast(months.month_of_year as integer) as month_of_year,
    months.purchases,
    cast(months.revenue as decimal(38, 4)) as revenue,
    case when months.total > 0 then cast(months.revenue as double) / cast(months.total as double) end as revenue_share,
    case
        when sums.total > 0 then coalesce(cast(others.revenue as double) / cast(sums.total as double), 0)
    end as others_revenue_share
from months
cross join sums
left join months as others on months.month_of_year = others.month_of_year and others.segment_key is null
where months.segment_key is not null
