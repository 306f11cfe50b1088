with trimmed as (
    select
        source_file, source_sheet, source_line, malformed, transaction_time, first_cell, extra,
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

-- Plain numbers. A function of one column is computed once for each value of a dictionary; CASE is not. Each step has
-- its own SELECT, because a name that is used in its own SELECT is replaced by its expression: DuckDB would compile the
-- same regular expressions many times, which takes longer than reading a small file.
numbers as (
    select
        *,
        -- The retailer sets both marks. A number that uses them otherwise is not converted: 2,50 must not become 250.
        replace(replace(regexp_extract(quantity_text, $number), $thousands, ''), $decimal, '.') as quantity_number,
        replace(replace(regexp_extract(price_text, $number), $thousands, ''), $decimal, '.') || $exponent
            as price_number,
        replace(replace(regexp_extract(amount_text, $number), $thousands, ''), $decimal, '.') || $exponent
            as amount_number
    from trimmed
),

rounded as (
    select
        *,
        try_cast(quantity_number as decimal(18, 3)) as quantity_rounded,
        try_cast(price_number as decimal(18, 4)) as price_rounded,
        try_cast(amount_number as decimal(18, 4)) as amount_rounded
    from numbers
),

plain as (
    select
        *,
        exact_decimal(quantity_number, quantity_rounded) as plain_quantity,
        exact_decimal(price_number, price_rounded) as plain_price,
        exact_decimal(amount_number, amount_rounded) as plain_amount
    from rounded
),

-- Other notations, only where a number is not plain.
written as (
    select
        *,
        case
            when plain_quantity is null
                then written_number(quantity_text, $written_quantity, $never, $thousands, $decimal)
        end as quantity_written,
        case
            when plain_price is null
                then written_number(price_text, $written_money, $currency_mark, $thousands, $decimal) || $exponent
        end as price_written,
        case
            when plain_amount is null
                then written_number(amount_text, $written_money, $currency_mark, $thousands, $decimal) || $exponent
        end as amount_written
    from plain
),

typed as (
    select
        *,
        -- CASE, because COALESCE would compute both for every row.
        case
            when plain_quantity is not null then plain_quantity
            else exact_decimal(quantity_written, try_cast(quantity_written as decimal(18, 3)))
        end as quantity,
        case
            when plain_price is not null then plain_price
            else exact_decimal(price_written, try_cast(price_written as decimal(18, 4)))
        end as price,
        case
            when plain_amount is not null then plain_amount
            else exact_decimal(amount_written, try_cast(amount_written as decimal(18, 4)))
        end as source_amount,
        -- The formats of dates are constants of the relation that is read.
        case
            when $has_date_format then transaction_time else iso_time(transaction_at_text, $time_zone)
        end as transaction_at
    from written
),

-- The texts of a line that begin with the word for a total, where it may be one: without a date, or malformed. In one
-- list, because DuckDB would compile the regular expression for each column, which takes longer than reading a small
-- file.
worded as (
    select
        *,
        case
            when malformed is not null or transaction_at is null
                then list_filter(
                    [malformed, first_cell, transaction_at_text, customer_id, invoice, stock_code, description],
                    lambda text: is_total(text)
                )
        end as total_words
    from typed
),

-- The text that says that a line is the total of others: it has neither date nor customer, or is malformed and has
-- nothing but numbers behind the text. Other lines, and dates, are none.
labelled as (
    select
        *,
        case
            when malformed is not null
                then case
                    when list_contains(total_words, malformed)
                        and regexp_matches(malformed, '^[^\p{L}]*[^,;|\t]*([,;|\t][^\p{L}]*)?$')
                        and not regexp_matches(malformed, '[0-9][-/:][0-9]|\b[0-9]{1,2}[.][0-9]{1,2}[.][0-9]{2}')
                        then malformed
                end
            when transaction_at is null
                and (transaction_at_text is null or list_contains(total_words, transaction_at_text))
                and (customer_id is null or list_contains(total_words, customer_id))
                then coalesce(
                    case when list_contains(total_words, first_cell) then first_cell end,
                    case when list_contains(total_words, transaction_at_text) then transaction_at_text end,
                    case when list_contains(total_words, customer_id) then customer_id end,
                    case when list_contains(total_words, invoice) then invoice end,
                    case when list_contains(total_words, stock_code) then stock_code end,
                    case when list_contains(total_words, description) then description end
                )
        end as total_label
    from worded
),

converted as (
    select
        *,
        -- As decimal(38), because the product of two decimal(18) is decimal(18), whose overflow is an error inside
        -- try_cast too.
        case
            when total_label is not null then null
            when $has_amount then source_amount
            else try_cast(cast(quantity as decimal(38, 3)) * price as decimal(18, 4))
        end as amount
    from labelled
),

checked as (
    select
        *,
        malformed is not null
        or transaction_at is null
        or amount is null
        or (quantity is null and ($has_quantity and (quantity_text is not null or not $has_amount)))
        or (price is null and ($has_price and (price_text is not null or not $has_amount))) as is_unparsed
    from converted
)

select
    source_file, source_sheet, cast(source_line as bigint) as source_line,
    invoice, stock_code, description,
    -- The numbers of a total would count the lines above it twice.
    case when total_label is null then quantity end as quantity,
    transaction_at,
    case when total_label is null then price end as price,
    amount,
    case when total_label is null then customer_id end as customer_id,
    country,
    case
        when total_label is not null then cast(json_object(
            'totals_line', total_label,
            'transaction_at', transaction_at_text,
            'customer_id', customer_id,
            'quantity', quantity_text,
            'price', price_text,
            'amount', amount_text
        ) as varchar)
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
    end as unparsed,
    -- The columns of [columns.extra] in one.
    extra
from checked
