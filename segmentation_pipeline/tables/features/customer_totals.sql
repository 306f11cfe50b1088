with run as (
    select as_of_time(max(transaction_at), $as_of, $to_end_of_day) as as_of from clean_transactions
),

lines as (
    select
        clean.*,
        -- Negative money on an ordinary invoice is a refund, as on a cancellation; a free line is part of a purchase.
        not clean.is_cancellation and clean.amount >= 0 as is_purchase,
        coalesce(clean.transaction_at >= run.as_of - $look_back_days * interval '1' day, true) as is_within
    from clean_transactions as clean
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
        count(distinct case when is_purchase and is_within then stock_code end) as products,
        min(case when is_purchase then transaction_at end) as first_purchase_at,
        max(case when is_purchase then transaction_at end) as last_purchase_at,
        min(transaction_at) as first_line_at
    from lines
    group by customer_id
),

countries as (
    select
        customer_id,
        country,
        row_number() over (
            partition by customer_id order by sum(case when is_purchase then amount else 0 end) desc, country
        ) as place
    from lines
    where country is not null
    group by customer_id, country
)

select
    customers.customer_id,
    cast(customers.frequency as integer) as frequency,
    cast(customers.monetary as decimal(18, 4)) as monetary,
    cast(customers.gross as decimal(18, 4)) as gross,
    cast(customers.refunds as decimal(18, 4)) as refunds,
    cast(customers.products as integer) as products,
    cast(customers.total_spend as decimal(18, 4)) as total_spend,
    customers.first_purchase_at,
    customers.last_purchase_at,
    customers.first_line_at,
    countries.country
from customers
left join countries on customers.customer_id = countries.customer_id and countries.place = 1
