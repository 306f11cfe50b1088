-- Of a month of a query, which is no file with sheets, source_sheet is the key of each row.
with lines as (
    select
        source_file,
        case when source_file like 'query/%' then '' else source_sheet end as source_sheet,
        customer_id, invoice, transaction_at, stock_code, quantity, amount,
        coalesce(country, '') as country,
        -- Negative money on an ordinary invoice is a refund, as on a cancellation; a free line is part of a purchase.
        not is_cancellation and amount >= 0 as is_purchase
    from clean_transactions
)

select
    source_file, source_sheet, customer_id, invoice, transaction_at, country, is_purchase,
    count(*) as lines,
    cast(sum(amount) as decimal(38, 4)) as amount,
    -- The sum does not depend on the order of the lines.
    cast(sum(hash(customer_id, transaction_at, stock_code, quantity, amount)) as decimal(38, 0)) as digest
from lines
group by source_file, source_sheet, customer_id, invoice, transaction_at, country, is_purchase
