with run as (
    select as_of_time(max(transaction_at), $as_of, $to_end_of_day) as as_of from invoice_totals
)

select
    totals.customer_id,
    cast(floor(
        (epoch(run.as_of) - epoch(coalesce(totals.last_purchase_at, totals.first_line_at))) / 86400
    ) as integer) as recency,
    totals.frequency, totals.monetary, totals.gross, totals.refunds,
    -- Rounded half up in whole ten-thousandths: the nearest double of 327.62375 is below it.
    case
        when totals.frequency > 0
        then cast(floor(cast(totals.gross * 10000 as double) / totals.frequency + 0.5) / 10000 as decimal(18, 4))
    end as average_order_value,
    totals.products,
    totals.first_purchase_at, totals.last_purchase_at,
    cast(floor((epoch(run.as_of) - epoch(totals.first_purchase_at)) / 86400) as integer) as tenure,
    coalesce(times.purchase_days, 0) as purchase_days, times.inter_purchase_time,
    totals.total_spend,
    totals.country,
    run.as_of
from customer_totals as totals
cross join run
left join inter_purchase_times as times on totals.customer_id = times.customer_id
