-- Did the campaign work? The control group against those addressed
-- What both have spent since the campaign, in the segments of the time when it began. A release has no transactions, so
-- this reads the exports of the shop; here, the files of the sample. The means are of all customers, those who bought
-- nothing included. A difference below twice its standard error is no result. (Nobody addressed the customers of the
-- sample: its differences are chance.)
with campaign as (
    select timestamp '2025-12-01 00:00:00' as begins_at
),

lines as (
    select distinct *
    from read_csv('data/sample/source/transactions-*.csv', all_varchar = true)
),

spend as (
    select
        regexp_replace(CustomerID, '\.0$', '') as customer_id,
        sum(cast(Quantity as integer) * cast(UnitPrice as decimal(18, 4))) as amount
    from lines
    cross join campaign
    where cast(InvoiceDate as timestamp) >= begins_at
    group by customer_id
),

customers as (
    select
        segment_membership.segment_key,
        cast(coalesce(amount, 0) as double) as amount,
        case when is_control then 'control' else 'addressed' end as side
    from segment_membership
    cross join campaign
    inner join customer_segments using (customer_id)
    left join spend using (customer_id)
    where valid_from <= begins_at
        and (valid_to > begins_at or valid_to is null)
)

select
    segment_key,
    count(*) filter (where side = 'addressed') as addressed,
    count(*) filter (where side = 'control') as control,
    round(avg(amount) filter (where side = 'addressed'), 2) as mean_addressed,
    round(avg(amount) filter (where side = 'control'), 2) as mean_control,
    round(mean_addressed - mean_control, 2) as difference,
    round(
        sqrt(
            var_samp(amount) filter (where side = 'addressed') / addressed
            + var_samp(amount) filter (where side = 'control') / control
        ),
        2
    ) as standard_error
from customers
group by segment_key
having control > 1
order by addressed desc;
