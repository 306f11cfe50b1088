with source_lines as (
    select * from read_lines
),

trimmed as (
    select
        source_file, source_sheet, source_line, broken,
        nullif(description, '') as description,
        nullif(trim(transaction_at), '') as transaction_at_text,
        nullif(trim(quantity), '') as quantity_text,
        nullif(trim(price), '') as price_text,
        nullif(trim(amount), '') as amount_text,
        nullif(trim(country), '') as country,
        regexp_replace(nullif(trim(invoice), ''), '^([0-9]+)[.]0+$', '\1') as invoice,
        regexp_replace(nullif(trim(stock_code), ''), '^([0-9]+)[.]0+$', '\1') as stock_code,
        regexp_replace(nullif(trim(customer_id), ''), '^([0-9]+)[.]0+$', '\1') as customer_id
    from source_lines
),

typed as (
    select
        *,
        -- Both marks are the retailer's: a number that uses them otherwise is refused, not read as a hundred times as much.
        replace(replace(regexp_extract(quantity_text, $number), $thousands, ''), $decimal, '.') as quantity_number,
        replace(replace(regexp_extract(price_text, $number), $thousands, ''), $decimal, '.') as price_number,
        replace(replace(regexp_extract(amount_text, $number), $thousands, ''), $decimal, '.') as amount_number,
        try_cast(quantity_number as decimal(18, 3)) as quantity_rounded,
        try_cast(price_number as decimal(18, 4)) as price_rounded,
        try_cast(amount_number as decimal(18, 4)) as amount_rounded,
        -- Digits that do not fit are refused, not rounded. What a double adds to a short number (2.5500000000000003) is none:
        -- it is less than 5e-16 of it, and rounding what was written with 15 digits or fewer takes more than that.
        case when abs(try_cast(quantity_number as double) - quantity_rounded) <= 5e-16 * abs(quantity_rounded) then quantity_rounded end as quantity,
        case when abs(try_cast(price_number as double) - price_rounded) <= 5e-16 * abs(price_rounded) then price_rounded end as price,
        case when abs(try_cast(amount_number as double) - amount_rounded) <= 5e-16 * abs(amount_rounded) then amount_rounded end as own_amount,
        case
            when $date_format is not null then try_strptime(transaction_at_text, $date_format)
            when regexp_matches(transaction_at_text, ':[0-9]{2}([.][0-9]+)?(Z| ?UTC|[+-][0-9]{2}(:?[0-9]{2})?)$')
                then try_cast(transaction_at_text as timestamptz) at time zone $time_zone
            else try_cast(transaction_at_text as timestamp)
        end as transaction_at
    from trimmed
),

told as (
    select
        *,
        -- As decimal(38): the product of two decimal(18) is one too, and where it overflows it raises inside a try_cast also.
        case when $has_amount then own_amount else try_cast(cast(quantity as decimal(38, 3)) * price as decimal(18, 4)) end as amount,
        broken is not null
        or transaction_at is null
        or amount is null
        or (quantity is null and ($has_quantity and (quantity_text is not null or not $has_amount)))
        or (price is null and ($has_price and (price_text is not null or not $has_amount))) as is_unparsed
    from typed
)

select
    source_file, source_sheet, cast(source_line as bigint) as source_line,
    invoice, stock_code, description, quantity, transaction_at, price, amount, customer_id, country,
    case
        when broken is not null then cast(json_object('line', broken) as varchar)
        when is_unparsed then cast(json_object(
            'transaction_at', case when transaction_at is null then coalesce(transaction_at_text, '') end,
            'quantity', case when quantity is null and $has_quantity then coalesce(quantity_text, '') end,
            'price', case when price is null and $has_price then coalesce(price_text, '') end,
            'amount', case
                when own_amount is null and $has_amount then coalesce(amount_text, '')
                when amount is null then cast(quantity as varchar) || ' x ' || cast(price as varchar)
            end
        ) as varchar)
    end as unparsed
from told
