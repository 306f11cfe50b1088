with today as (
    select * from customer_segments
),

moment as (
    select max(as_of) as as_of from today
),

otherwise as (
    select * from assigned_by_previous_model
),

-- What was written for as_of is taken back; nothing that was written for an earlier one is touched.
before as (
    select
        ledger.customer_id,
        ledger.segment_key,
        ledger.is_move_pending,
        ledger.model_id,
        ledger.reason,
        ledger.valid_from,
        case when ledger.valid_to < moment.as_of then ledger.valid_to end as valid_to
    from segment_membership as ledger
    cross join moment
    where ledger.valid_from < moment.as_of
),

standing as (
    select * from before where valid_to is null
),

moved as (
    select
        today.customer_id,
        today.segment_key,
        today.is_move_pending,
        today.model_id,
        case
            when standing.customer_id is null then 'new'
            -- Who moves for the model, moves for it alone, though without it the customer would now be held, or not.
            when
                otherwise.segment_key = standing.segment_key
                and (today.segment_key <> standing.segment_key or otherwise.is_move_pending = standing.is_move_pending)
                then 'model'
            else 'behaviour'
        end as reason,
        today.as_of as valid_from
    from today
    left join standing on today.customer_id = standing.customer_id
    left join otherwise on today.customer_id = otherwise.customer_id
    where
        standing.customer_id is null
        or today.segment_key <> standing.segment_key
        or today.is_move_pending <> standing.is_move_pending
)

select
    before.customer_id,
    before.segment_key,
    before.is_move_pending,
    before.model_id,
    before.reason,
    before.valid_from,
    case
        when before.valid_to is null and (moved.customer_id is not null or today.customer_id is null) then moment.as_of
        else before.valid_to
    end as valid_to
from before
cross join moment
left join moved on before.customer_id = moved.customer_id
left join today on before.customer_id = today.customer_id
union all
select customer_id, segment_key, is_move_pending, model_id, reason, valid_from, null
from moved
