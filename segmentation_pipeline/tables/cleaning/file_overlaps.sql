with totals as (
    select source_file, source_sheet, invoice, transaction_at, lines, amount, digest
    from invoice_totals
    where not $sources_overlap
),

parts as (
    select
        source_file, source_sheet,
        sum(lines) as lines,
        min(transaction_at) as first_at,
        max(transaction_at) as last_at
    from totals
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

invoices as (
    select
        total.source_file, total.source_sheet, total.invoice,
        sum(total.lines) as lines,
        sum(total.amount) as amount,
        sum(total.digest) as digest
    from totals as total
    inner join shared_periods as period
        on total.source_file = period.source_file and total.source_sheet = period.source_sheet
    where total.transaction_at between period.first_at and period.last_at
    group by total.source_file, total.source_sheet, total.invoice
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
