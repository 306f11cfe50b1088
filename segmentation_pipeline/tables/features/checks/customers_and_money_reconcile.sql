-- One row per customer whose features and clean transactions disagree on presence or money within the look-back.
with run as (
    select max(as_of) - cast($look_back_days as integer) * interval '1' day as since from rfm_features
),

clean as (
    select
        lines.customer_id,
        coalesce(sum(case when coalesce(lines.transaction_at >= run.since, true) then lines.amount end), 0) as money
    from clean_transactions as lines
    cross join run
    group by lines.customer_id
),

features as (
    select customer_id, count(*) as times, sum(monetary) as money
    from rfm_features
    group by customer_id
)

select
    coalesce(clean.customer_id, features.customer_id) as customer_id,
    coalesce(features.times, 0) as times_in_features,
    clean.money as clean_money,
    features.money as feature_money
from clean
full outer join features on clean.customer_id = features.customer_id
where
    clean.customer_id is null
    or coalesce(features.times, 0) <> 1
    or clean.money <> features.money
order by 1
