-- One row per file or sheet of which more lines are found again in others than the settings allow.
with files as (
    select
        source_file || case when source_sheet = '' then '' else ' [' || source_sheet || ']' end as part,
        string_agg(
            found_in_file || case when found_in_sheet = '' then '' else ' [' || found_in_sheet || ']' end,
            ', ' order by lines desc, found_in_file, found_in_sheet
        ) as found_in,
        cast(sum(lines) as bigint) as lines,
        cast(round(max(lines / share)) as bigint) as file_lines,
        sum(share) as share,
        sum(amount) as amount
    from file_overlaps
    group by source_file, source_sheet
)

select * exclude (share)
from files
where share > $max_repeated_share and (lines >= $min_lines or share >= $min_share)
order by lines desc, part
