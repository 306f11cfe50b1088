with purchase_days as (
    select distinct customer_id, cast(transaction_at as date) as purchase_day
    from invoice_totals
    where is_purchase
),

gaps as (
    select
        customer_id,
        date_diff('day', purchase_day, lead(purchase_day) over (partition by customer_id order by purchase_day)) as gap
    from purchase_days
),

population as (
    select median(gap) as gap from gaps
),

customers as (
    select
        customer_id,
        count(*) as purchase_days,
        count(gap) as gaps,
        sum(gap) as days_between
    from gaps
    group by customer_id
)

-- A customer's own gaps are averaged with two median gaps of the population, because one gap predicts the next poorly.
-- Sums of days and twice a median of days are whole numbers, so nothing is rounded before the division.
select
    customers.customer_id,
    cast(customers.purchase_days as integer) as purchase_days,
    case
        when customers.gaps > 0
        then cast(customers.days_between + 2 * population.gap as double) / (customers.gaps + 2)
    end as inter_purchase_time
from customers
cross join population
