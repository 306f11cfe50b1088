with periods as (
    select
        *,
        -- Null where the customer was in no segment when the row begins.
        case
            when lag(valid_to) over customer = valid_from then lag(segment_key) over customer
        end as from_segment,
        lead(valid_from) over customer is not distinct from valid_to as continues
    from segment_membership
    window customer as (partition by customer_id order by valid_from)
)

select
    customer_id,
    valid_from as as_of,
    from_segment,
    segment_key as to_segment,
    case when from_segment is null then 'new' else reason end as reason,
    model_id
from periods
where from_segment is distinct from segment_key
union all
select customer_id, valid_to, segment_key, null, 'removed', model_id
from periods
where valid_to is not null and not continues
union all
-- Consumers that keep a copy of the segments learn that a customer must be erased there too, but not which one.
select erased.customer_hash, erased.as_of, null, null, 'erased', model.model_id
from erased_customers as erased
cross join kmeans_model as model
