with ledger as (
    select * from segment_membership
),

moment as (
    select max(as_of) as as_of from rfm_features
),

-- What was written for as_of itself is not read, so that a run done again finds what it found.
before as (
    select
        ledger.customer_id,
        ledger.segment_key,
        ledger.is_move_pending,
        ledger.valid_from,
        coalesce(ledger.valid_to >= moment.as_of, true) as is_last,
        moment.as_of,
        lag(ledger.segment_key) over (partition by ledger.customer_id order by ledger.valid_from) as key_before,
        lag(ledger.valid_to) over (partition by ledger.customer_id order by ledger.valid_from) as end_before
    from ledger
    cross join moment
    where ledger.valid_from < moment.as_of
),

-- Rows of one segment without a gap are one stay; being held off the nearest segment divides it into rows.
starts as (
    select customer_id, max(valid_from) as segment_since
    from before
    where key_before is null or key_before <> segment_key or end_before <> valid_from
    group by customer_id
)

select
    before.customer_id,
    before.segment_key,
    starts.segment_since,
    case
        when before.is_move_pending
        then cast(floor((epoch(before.as_of) - epoch(before.valid_from)) / 86400) as integer)
        else 0
    end as pending_days
from before
inner join starts on before.customer_id = starts.customer_id
where before.is_last
