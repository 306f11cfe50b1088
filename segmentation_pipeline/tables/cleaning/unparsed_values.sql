with unparsed_lines as (
    select source_file, source_sheet, source_line, amount, unparsed
    from rejected_transactions
    where rule = 'unparseable_value'
),

texts as (
    select *, 'line' as column_name, json_extract_string(unparsed, '$.line') as value
    from unparsed_lines
    union all
    select *, 'transaction_at' as column_name, json_extract_string(unparsed, '$.transaction_at') as value
    from unparsed_lines
    union all
    select *, 'quantity' as column_name, json_extract_string(unparsed, '$.quantity') as value
    from unparsed_lines
    union all
    select *, 'price' as column_name, json_extract_string(unparsed, '$.price') as value
    from unparsed_lines
    union all
    select *, 'amount' as column_name, json_extract_string(unparsed, '$.amount') as value
    from unparsed_lines
),

masked as (
    select
        column_name, source_file, source_sheet, source_line, amount,
        substring(masked_pattern(value), 1, 60) as pattern
    from texts
    -- Where the source has amounts, a quantity and a price may be empty, and are not what makes the line unreadable.
    where value <> ''
    or column_name not in ('quantity', 'price')
    or (amount is null and json_extract_string(unparsed, '$.amount') is null)
),

patterns as (
    select
        column_name,
        pattern,
        count(*) as lines,
        sum(amount) as amount,
        count(*) - count(amount) as lines_without_amount,
        min({'file': source_file, 'sheet': source_sheet, 'line': source_line}) as first_line
    from masked
    where pattern is not null
    group by column_name, pattern
),

ranked as (
    select
        *,
        row_number() over (partition by column_name order by lines desc, pattern) as position,
        sum(lines) over (partition by column_name) as lines_of_column
    from patterns
),

total as (
    select count(*) as lines from raw_transactions
)

select
    ranked.column_name,
    cast(ranked.position as integer) as position,
    ranked.pattern,
    cast(ranked.lines as bigint) as lines,
    cast(ranked.lines as double) / total.lines as share,
    cast(ranked.amount as decimal(38, 4)) as amount,
    cast(ranked.lines_without_amount as bigint) as lines_without_amount,
    cast(ranked.lines_of_column as bigint) as lines_of_column,
    ranked.first_line.file as source_file,
    ranked.first_line.sheet as source_sheet,
    ranked.first_line.line as source_line
from ranked
cross join total
where ranked.position <= 3
