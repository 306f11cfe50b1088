-- One row per file whose lines in raw_transactions are not those that were read.
with stored as (
    select source_file, count(*) as lines, count(case when unparsed like '{"line":%' then 1 end) as malformed
    from raw_transactions
    group by source_file
)

select
    coalesce(files.source_file, stored.source_file) as source_file,
    files.lines as lines_read,
    stored.lines as lines_stored,
    files.malformed as malformed_read,
    stored.malformed as malformed_stored
from ingested_files as files
full join stored on files.source_file = stored.source_file
where coalesce(files.lines, 0) <> coalesce(stored.lines, 0)
    or coalesce(files.malformed, 0) <> coalesce(stored.malformed, 0)
order by 1
