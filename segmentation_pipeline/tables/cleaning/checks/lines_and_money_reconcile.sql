-- One row per run in which cleaning lost or duplicated lines or money.
with raw as (
    select count(*) as lines, coalesce(sum(amount), 0) as money from raw_transactions
),

clean as (
    select count(*) as lines, coalesce(sum(amount), 0) as money from clean_transactions
),

rejected as (
    select count(*) as lines, coalesce(sum(amount), 0) as money from rejected_transactions
)

select
    raw.lines as raw_lines,
    clean.lines as clean_lines,
    rejected.lines as rejected_lines,
    raw.money as raw_money,
    clean.money as clean_money,
    rejected.money as rejected_money
from raw
cross join clean
cross join rejected
where raw.lines <> clean.lines + rejected.lines or raw.money <> clean.money + rejected.money
