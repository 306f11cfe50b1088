with run as (
    select as_of_time(max(transaction_at), $as_of, $to_end_of_day) as as_of from invoice_totals
),

invoices as (
    select
        totals.*,
        coalesce(totals.transaction_at >= run.as_of - $look_back_days * interval '1' day, true) as is_within
    from invoice_totals as totals
    cross join run
),

customers as (
    select
        customer_id,
        count(distinct case when is_purchase and is_within then invoice end) as frequency,
        coalesce(sum(case when is_within then amount end), 0) as monetary,
        coalesce(sum(amount), 0) as total_spend,
        coalesce(sum(case when is_purchase and is_within then amount end), 0) as gross,
        coalesce(-sum(case when not is_purchase and is_within then amount end), 0) as refunds,
        min(case when is_purchase then transaction_at end) as first_purchase_at,
        max(case when is_purchase then transaction_at end) as last_purchase_at,
        min(transaction_at) as first_line_at
    from invoices
    group by customer_id
),

products as (
    select clean.customer_id, count(distinct clean.stock_code) as products
    from clean_transactions as clean
    cross join run
    where
        not clean.is_cancellation
        and clean.amount >= 0
        and coalesce(clean.transaction_at >= run.as_of - $look_back_days * interval '1' day, true)
    group by clean.customer_id
),

countries as (
    select
        customer_id,
        country,
        row_number() over (
            partition by customer_id order by sum(case when is_purchase then amount else 0 end) desc, country
        ) as place
    from invoices
    where country <> ''
    group by customer_id, country
)

select
    customers.customer_id,
    cast(customers.frequency as integer) as frequency,
    cast(customers.monetary as decimal(18, 4)) as monetary,
    cast(customers.gross as decimal(18, 4)) as gross,
    cast(customers.refunds as decimal(18, 4)) as refunds,
    cast(coalesce(products.products, 0) as integer) as products,
    cast(customers.total_spend as decimal(18, 4)) as total_spend,
    customers.first_purchase_at,
    customers.last_purchase_at,
    customers.first_line_at,
    countries.country
from customers
left join products on customers.customer_id = products.customer_id
left join countries on customers.customer_id = countries.customer_id and countries.place = 1
