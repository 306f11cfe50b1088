with run as (
    select max(as_of) as as_of from customer_segments
),

-- Rows written for as_of are withdrawn; rows written for an earlier as_of stay as they are.
before as (
    select
        membership.* exclude (valid_to),
        case when membership.valid_to < run.as_of then membership.valid_to end as valid_to
    from segment_membership as membership
    cross join run
    where membership.valid_from < run.as_of
),

-- One join, because each holds all customers in memory: whether they left the shop, moved, or stayed.
compared as (
    select
        previous.customer_id as previous_customer_id,
        previous.segment_key as previous_segment_key,
        previous.is_move_pending as previous_is_move_pending,
        previous.model_id as previous_model_id,
        previous.reason as previous_reason,
        previous.valid_from as previous_valid_from,
        today.customer_id,
        today.segment_key,
        today.is_move_pending,
        today.model_id,
        previous.customer_id is null
        or today.segment_key <> previous.segment_key
        or today.is_move_pending <> previous.is_move_pending as is_moved
    from (select * from before where valid_to is null) as previous
    full join customer_segments as today using (customer_id)
)

select customer_id, segment_key, is_move_pending, model_id, reason, valid_from, valid_to
from before
where valid_to is not null
union all
select
    compared.previous_customer_id,
    compared.previous_segment_key,
    compared.previous_is_move_pending,
    compared.previous_model_id,
    compared.previous_reason,
    compared.previous_valid_from,
    case when compared.is_moved or compared.customer_id is null then run.as_of end
from compared
cross join run
where compared.previous_customer_id is not null
union all
select
    compared.customer_id,
    compared.segment_key,
    compared.is_move_pending,
    compared.model_id,
    case
        when compared.previous_customer_id is null then 'new'
        -- The model alone moves a customer that the previous model would have left where it was.
        when
            unchanged.segment_key = compared.previous_segment_key
            and (
                compared.segment_key <> compared.previous_segment_key
                or unchanged.is_move_pending = compared.previous_is_move_pending
            )
            then 'model'
        -- Refunds do not vanish by what a customer does: they leave the look-back window, or the rules have changed.
        when compared.previous_segment_key = 'refunded' and compared.segment_key = 'no_spend' then 'model'
        else 'behaviour'
    end,
    run.as_of,
    null
from compared
cross join run
left join assigned_by_previous_model as unchanged on compared.customer_id = unchanged.customer_id
where compared.is_moved and compared.customer_id is not null
