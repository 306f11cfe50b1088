with rejected as (
    select
        rule,
        count(*) as lines,
        count(distinct customer_id) as customers,
        sum(amount) as amount
    from rejected_transactions
    group by rule
),

total as (
    select
        count(*) as lines,
        count(distinct customer_id) as customers,
        coalesce(sum(amount), 0) as amount
    from raw_transactions
),

steps as (
    select
        0 as step,
        'read' as rule,
        'every line of the source' as reason,
        lines,
        customers,
        amount,
        0 as lines_lost,
        0 as amount_lost
    from total
    union all
    select
        rules.step,
        rules.rule,
        rules.reason,
        coalesce(rejected.lines, 0),
        coalesce(rejected.customers, 0),
        coalesce(rejected.amount, 0),
        coalesce(rejected.lines, 0),
        coalesce(rejected.amount, 0)
    from cleaning_rules as rules
    left join rejected on rules.rule = rejected.rule
)

select
    cast(steps.step as integer) as step,
    steps.rule,
    steps.reason,
    cast(steps.lines as bigint) as lines,
    case when total.lines = 0 then 0.0e0 else cast(steps.lines as double) / total.lines end as share,
    cast(steps.customers as bigint) as customers,
    cast(steps.amount as decimal(38, 4)) as amount,
    cast(total.lines - sum(steps.lines_lost) over (order by steps.step) as bigint) as lines_left,
    cast(total.amount - sum(steps.amount_lost) over (order by steps.step) as decimal(38, 4)) as amount_left
from steps
cross join total
