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

moved as (
    select
        today.customer_id,
        today.segment_key,
        today.is_move_pending,
        today.model_id,
        case
            when previous.customer_id is null then 'new'
            -- The model alone moves a customer that the previous model would have left where it was.
            when
                unchanged.segment_key = previous.segment_key
                and (
                    today.segment_key <> previous.segment_key
                    or unchanged.is_move_pending = previous.is_move_pending
                )
                then 'model'
            -- Refunds do not vanish by what a customer does: they leave the look-back window, or the rules have changed.
            when previous.segment_key = 'refunded' and today.segment_key = 'no_spend' then 'model'
            else 'behaviour'
        end as reason,
        today.as_of as valid_from
    from customer_segments as today
    left join (select * from before where valid_to is null) as previous using (customer_id)
    left join assigned_by_previous_model as unchanged using (customer_id)
    where
        previous.customer_id is null
        or today.segment_key <> previous.segment_key
        or today.is_move_pending <> previous.is_move_pending
)

select
    before.customer_id,
    before.segment_key,
    before.is_move_pending,
    before.model_id,
    before.reason,
    before.valid_from,
    case
        when before.valid_to is null and (moved.customer_id is not null or today.customer_id is null) then run.as_of
        else before.valid_to
    end as valid_to
from before
cross join run
left join moved using (customer_id)
left join customer_segments as today using (customer_id)
union all
select customer_id, segment_key, is_move_pending, model_id, reason, valid_from, null
from moved
