-- one row, if customers or their money within the look-back are lost between transactions and features
with moment as (
    select max(as_of) - cast($look_back_days as integer) * interval '1' day as since from rfm_features
),

clean as (
    select
        count(distinct clean_transactions.customer_id) as customers,
        coalesce(sum(
            case when coalesce(clean_transactions.transaction_at >= moment.since, true) then clean_transactions.amount end
        ), 0) as money
    from clean_transactions
    cross join moment
),

features as (
    select count(*) as customers, coalesce(sum(monetary), 0) as money from rfm_features
)

select
    clean.customers as clean_customers,
    features.customers as feature_customers,
    clean.money as clean_money,
    features.money as feature_money
from clean
cross join features
where clean.customers <> features.customers or clean.money <> features.money
