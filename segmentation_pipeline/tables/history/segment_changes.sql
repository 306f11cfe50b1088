with ledger as (
    select * from segment_membership
),

erased as (
    select * from erased_customers
),

model as (
    select * from kmeans_model
),

beside as (
    select
        ledger.*,
        lag(segment_key) over (partition by customer_id order by valid_from) as key_before,
        lag(valid_to) over (partition by customer_id order by valid_from) as end_before,
        lead(valid_from) over (partition by customer_id order by valid_from) as start_after
    from ledger
)

select
    customer_id,
    valid_from as as_of,
    case when end_before = valid_from then key_before end as from_segment,
    segment_key as to_segment,
    case when end_before = valid_from then reason else 'new' end as reason,
    model_id
from beside
where end_before is null or end_before <> valid_from or key_before <> segment_key
union all
select customer_id, valid_to, segment_key, null, 'gone', model_id
from beside
where valid_to is not null and (start_after is null or start_after <> valid_to)
union all
-- Whoever keeps a copy of the segments hears that somebody is to be erased there too; not who.
select erased.customer_hash, erased.as_of, null, null, 'erased', model.model_id
from erased
cross join model
