-- One row per file whose lines in raw_transactions are not those that were read.
with files as (
    select * from ingested_files
),

raw as (
    select * from raw_transactions
),

stand as (
    select source_file, count(*) as lines, count(case when unparsed like '{"line":%' then 1 end) as broken
    from raw
    group by source_file
)

select
    coalesce(files.source_file, stand.source_file) as source_file,
    files.lines as lines_read,
    stand.lines as lines_there,
    files.broken as broken_read,
    stand.broken as broken_there
from files
full join stand on files.source_file = stand.source_file
where coalesce(files.lines, 0) <> coalesce(stand.lines, 0)
    or coalesce(files.broken, 0) <> coalesce(stand.broken, 0)
order by 1
