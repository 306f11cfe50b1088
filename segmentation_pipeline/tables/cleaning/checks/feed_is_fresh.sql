-- One row per source whose newest transaction is older than the setting allows, or that has none.
-- A line after as_of shows that the feed delivers; a line dated in the future does not.
with transactions as (
    select transaction_at from clean_transactions
    union all
    select transaction_at from rejected_transactions where rule = 'after_as_of'
),

newest as (
    select max(transaction_at) as transaction_at
    from transactions
    where transaction_at <= cast($tick as timestamp)
)

select transaction_at as newest_transaction_at
from newest
where transaction_at is null or transaction_at < cast($tick as timestamp) - $max_feed_age_days * interval '1' day
