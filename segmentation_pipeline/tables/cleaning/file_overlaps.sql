-- Of a month of a query, which is no file with sheets, source_sheet is the key of each row.
with lines_of_parts as (
    select
        source_file,
        case when source_file like 'query/%' then '' else source_sheet end as source_sheet,
        invoice, customer_id, transaction_at, stock_code, quantity, amount
    from clean_transactions
    where not $sources_overlap
),

parts as (
    select
        source_file, source_sheet,
        count(*) as lines,
        min(transaction_at) as first_at,
        max(transaction_at) as last_at
    from lines_of_parts
    group by source_file, source_sheet
),

-- Only lines of a time that another file or sheet covers too can be in both.
shared_periods as (
    select
        part.source_file, part.source_sheet, part.lines,
        min(greatest(part.first_at, other.first_at)) as first_at,
        max(least(part.last_at, other.last_at)) as last_at
    from parts as part
    inner join parts as other on part.first_at <= other.last_at and other.first_at <= part.last_at
    where part.source_file <> other.source_file or part.source_sheet <> other.source_sheet
    group by part.source_file, part.source_sheet, part.lines
),

-- The sum does not depend on the order of the lines.
invoices as (
    select
        line.source_file, line.source_sheet, line.invoice,
        count(*) as lines,
        sum(line.amount) as amount,
        sum(hash(line.customer_id, line.transaction_at, line.stock_code, line.quantity, line.amount)) as digest
    from lines_of_parts as line
    inner join shared_periods as period
        on line.source_file = period.source_file and line.source_sheet = period.source_sheet
    where line.transaction_at between period.first_at and period.last_at
    group by line.source_file, line.source_sheet, line.invoice
),

repeated as (
    select invoice, lines, amount, digest
    from invoices
    group by invoice, lines, amount, digest
    having count(*) > 1
),

-- The largest file is the one in which the lines of the others are found again.
numbered as (
    select
        invoices.*,
        parts.lines as file_lines,
        row_number() over copies as number,
        first_value(invoices.source_file) over copies as found_in_file,
        first_value(invoices.source_sheet) over copies as found_in_sheet
    from invoices
    inner join repeated
        on invoices.invoice = repeated.invoice
        and invoices.lines = repeated.lines
        and invoices.amount = repeated.amount
        and invoices.digest = repeated.digest
    inner join parts on invoices.source_file = parts.source_file and invoices.source_sheet = parts.source_sheet
    window copies as (
        partition by invoices.invoice, invoices.lines, invoices.amount, invoices.digest
        order by parts.lines desc, invoices.source_file, invoices.source_sheet
    )
)

select
    source_file, source_sheet, found_in_file, found_in_sheet,
    count(*) as invoices,
    cast(sum(lines) as bigint) as lines,
    cast(sum(lines) as double) / max(file_lines) as share,
    cast(sum(amount) as decimal(38, 4)) as amount
from numbered
where number > 1
group by source_file, source_sheet, found_in_file, found_in_sheet
