with run as (
    select max(as_of) as as_of from rfm_features
),

span as (
    select
        min(transaction_at) as first_at,
        date_trunc('month', min(transaction_at)) + interval '1' month as first_end,
        max(transaction_at) as last_at
    from invoice_totals
),

month_ends as (
    select unnest(generate_series(span.first_end, run.as_of, interval '1' month)) as month_end
    from span
    cross join run
),

-- A sum of hashes does not depend on the order of rows; a late line changes every month after it.
monthly as (
    select
        date_trunc('month', transaction_at) + interval '1' month as month_end,
        sum(lines) as lines,
        sum(cast(hash(customer_id, invoice, transaction_at, lines, amount, is_purchase) % 1000000007 as bigint)) as print
    from invoice_totals
    group by date_trunc('month', transaction_at) + interval '1' month
),

counted as (
    select
        month_ends.month_end,
        cast(sum(monthly.lines) over (order by month_ends.month_end) as bigint) as lines,
        cast(sum(monthly.print) over (order by month_ends.month_end) as varchar) as fingerprint
    from month_ends
    left join monthly on month_ends.month_end = monthly.month_end
)

select
    counted.month_end,
    counted.lines,
    counted.fingerprint,
    date_diff('day', cast(span.first_at as date), cast(counted.month_end as date))
        >= coalesce($look_back_days, 365) as is_comparable,
    model.model_id,
    $history_digest as settings_digest
from counted
cross join span
cross join kmeans_model as model
