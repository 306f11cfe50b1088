with run as (
    select max(as_of) as as_of from customer_segments
),

outliers as (
    select customer_id, segment_key, segment
    from customer_segments
    where customer_group = 'outlier'
),

sales as (
    select
        outliers.segment_key,
        outliers.segment,
        clean.customer_id,
        coalesce(clean.stock_code, clean.description) as product,
        clean.description,
        clean.amount,
        not clean.is_cancellation and clean.amount >= 0 as is_purchase
    from clean_transactions as clean
    inner join outliers on clean.customer_id = outliers.customer_id
    cross join run
    where
        coalesce(clean.transaction_at >= run.as_of - $look_back_days * interval '1' day, true)
        and coalesce(clean.stock_code, clean.description) is not null
),

products as (
    select
        segment_key,
        segment,
        product,
        sum(amount) as revenue,
        count(distinct case when is_purchase then customer_id end) as customers
    from sales
    group by segment_key, segment, product
),

-- A product can have several names. That of the most money is the usual one.
names as (
    select
        segment_key,
        product,
        description,
        row_number() over (partition by segment_key, product order by sum(amount) desc, description) as place
    from sales
    where description is not null
    group by segment_key, product, description
),

sums as (
    select segment_key, sum(monetary) as revenue, count(*) as customers
    from customer_segments
    where customer_group = 'outlier'
    group by segment_key
),

ranked as (
    select
        *,
        row_number() over (partition by segment_key order by revenue desc, product) as place
    from products
    where customers > 0
)

select
    ranked.segment_key,
    ranked.segment,
    cast(ranked.place as integer) as place,
    ranked.product,
    names.description,
    ranked.customers,
    cast(ranked.customers as double) / sums.customers as customer_share,
    cast(ranked.revenue as decimal(38, 4)) as revenue,
    cast(ranked.revenue as double) / cast(sums.revenue as double) as revenue_share
from ranked
inner join sums on ranked.segment_key = sums.segment_key
left join names
    on ranked.segment_key = names.segment_key and ranked.product = names.product and names.place = 1
where ranked.place <= 10
