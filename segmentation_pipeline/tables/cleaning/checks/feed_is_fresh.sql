-- One row per source whose newest transaction is older than the setting allows, or that has none.
with clean as (
    select * from clean_transactions
),

rejected as (
    select * from rejected_transactions
),

-- Whatever as_of is: a line after it counts as life of the feed, one that is dated in the future does not.
transactions as (
    select transaction_at from clean
    union all
    select transaction_at from rejected where rule = 'after_as_of'
),

newest as (
    select max(transaction_at) as transaction_at
    from transactions
    where transaction_at <= cast($tick as timestamp)
)

select transaction_at as newest_transaction_at
from newest
where transaction_at is null or transaction_at < cast($tick as timestamp) - $max_feed_age_days * interval '1' day
