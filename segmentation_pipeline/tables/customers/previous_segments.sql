-- Rows written for as_of itself are not read, so that a repeated run gives the same result.
with periods as (
    select
        membership.*,
        run.as_of,
        membership.valid_to is null or membership.valid_to >= run.as_of as is_last,
        -- Adjacent rows of one segment are one stay; a pending move divides it into rows.
        lag(membership.segment_key) over history is distinct from membership.segment_key
            or lag(membership.valid_to) over history is distinct from membership.valid_from as is_start
    from segment_membership as membership
    cross join (select max(as_of) as as_of from rfm_features) as run
    where membership.valid_from < run.as_of
    window history as (partition by membership.customer_id order by membership.valid_from)
)

select
    customer_id,
    segment_key,
    max(valid_from) filter (where is_start) over (partition by customer_id) as segment_since,
    case
        when is_move_pending then cast(floor((epoch(as_of) - epoch(valid_from)) / 86400) as integer)
        else 0
    end as pending_days
from periods
qualify is_last
