with trimmed as (
    select
        source_file, source_sheet, source_line, malformed,
        nullif(description, '') as description,
        nullif(trim(transaction_at), '') as transaction_at_text,
        nullif(trim(quantity), '') as quantity_text,
        nullif(trim(price), '') as price_text,
        nullif(trim(amount), '') as amount_text,
        nullif(trim(country), '') as country,
        regexp_replace(nullif(trim(invoice), ''), '^([0-9]+)[.]0+$', '\1') as invoice,
        regexp_replace(nullif(trim(stock_code), ''), '^([0-9]+)[.]0+$', '\1') as stock_code,
        regexp_replace(nullif(trim(customer_id), ''), '^([0-9]+)[.]0+$', '\1') as customer_id
    from read_lines
),

typed as (
    select
        *,
        -- The retailer sets both marks. A number that uses them otherwise is not converted: 2,50 must not become 250.
        replace(replace(regexp_extract(quantity_text, $number), $thousands, ''), $decimal, '.') as quantity_number,
        replace(replace(regexp_extract(price_text, $number), $thousands, ''), $decimal, '.') as price_number,
        replace(replace(regexp_extract(amount_text, $number), $thousands, ''), $decimal, '.') as amount_number,
        try_cast(quantity_number as decimal(18, 3)) as quantity_rounded,
        try_cast(price_number as decimal(18, 4)) as price_rounded,
        try_cast(amount_number as decimal(18, 4)) as amount_rounded,
        -- A number with more digits than the type is not converted instead of rounded. The digits that a double adds to
        -- a short number (2.5500000000000003) do not count: they are less than 5e-16 of it, and rounding a number that
        -- was written with 15 digits or fewer changes it by more.
        case
            when abs(try_cast(quantity_number as double) - quantity_rounded) <= 5e-16 * abs(quantity_rounded)
                then quantity_rounded
        end as quantity,
        case
            when abs(try_cast(price_number as double) - price_rounded) <= 5e-16 * abs(price_rounded)
                then price_rounded
        end as price,
        case
            when abs(try_cast(amount_number as double) - amount_rounded) <= 5e-16 * abs(amount_rounded)
                then amount_rounded
        end as source_amount,
        case
            when $date_format is not null then try_strptime(transaction_at_text, $date_format)
            when regexp_matches(transaction_at_text, ':[0-9]{2}([.][0-9]+)?(Z| ?UTC|[+-][0-9]{2}(:?[0-9]{2})?)$')
                then try_cast(transaction_at_text as timestamptz) at time zone $time_zone
            else try_cast(transaction_at_text as timestamp)
        end as transaction_at
    from trimmed
),

converted as (
    select
        *,
        -- As decimal(38), because the product of two decimal(18) is decimal(18), whose overflow is an error inside
        -- try_cast too.
        case
            when $has_amount then source_amount
            else try_cast(cast(quantity as decimal(38, 3)) * price as decimal(18, 4))
        end as amount,
        malformed is not null
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
        when malformed is not null then cast(json_object('line', malformed) as varchar)
        when is_unparsed then cast(json_object(
            'transaction_at', case when transaction_at is null then coalesce(transaction_at_text, '') end,
            'quantity', case when quantity is null and $has_quantity then coalesce(quantity_text, '') end,
            'price', case when price is null and $has_price then coalesce(price_text, '') end,
            'amount', case
                when source_amount is null and $has_amount then coalesce(amount_text, '')
                when amount is null then cast(quantity as varchar) || ' x ' || cast(price as varchar)
            end
        ) as varchar)
    end as unparsed
from converted
