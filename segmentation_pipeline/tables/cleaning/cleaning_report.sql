with rejected as (
    select
        rule,
        count(*) as lines,
        count(distinct customer_id) as customers,
        count(*) - count(amount) as lines_without_amount,
        sum(amount) as amount,
        sum(abs(amount)) as absolute_amount
    from rejected_transactions
    group by rule
),

total as (
    select
        count(*) as lines,
        count(distinct customer_id) as customers,
        count(*) - count(amount) as lines_without_amount,
        coalesce(sum(amount), 0) as amount,
        coalesce(sum(abs(amount)), 0) as absolute_amount
    from raw_transactions
),

steps as (
    select
        0 as step,
        'read' as rule,
        'every line of the source' as reason,
        lines,
        customers,
        lines_without_amount,
        amount,
        absolute_amount,
        0 as lines_lost,
        0 as lines_without_amount_lost,
        0 as amount_lost
    from total
    union all
    select
        rules.step,
        rules.rule,
        rules.reason,
        coalesce(rejected.lines, 0),
        coalesce(rejected.customers, 0),
        coalesce(rejected.lines_without_amount, 0),
        coalesce(rejected.amount, 0),
        coalesce(rejected.absolute_amount, 0),
        coalesce(rejected.lines, 0),
        coalesce(rejected.lines_without_amount, 0),
        coalesce(rejected.amount, 0)
    from cleaning_rules as rules
    left join rejected on rules.rule = rejected.rule
),

remaining as (
    select
        steps.*,
        total.lines as lines_read,
        total.absolute_amount as absolute_amount_read,
        total.lines - sum(steps.lines_lost) over (order by steps.step) as lines_left,
        total.lines_without_amount - sum(steps.lines_without_amount_lost) over (order by steps.step)
            as lines_without_amount_left,
        total.amount - sum(steps.amount_lost) over (order by steps.step) as amount_left
    from steps
    cross join total
)

select
    cast(step as integer) as step,
    rule,
    reason,
    cast(lines as bigint) as lines,
    case when lines_read = 0 then 0.0e0 else cast(lines as double) / lines_read end as share,
    cast(customers as bigint) as customers,
    case when lines = 0 or lines > lines_without_amount then cast(amount as decimal(38, 4)) end as amount,
    case
        when lines > 0 and lines = lines_without_amount then null
        when absolute_amount_read = 0 then 0.0e0
        else cast(absolute_amount as double) / cast(absolute_amount_read as double)
    end as amount_share,
    cast(lines_without_amount as bigint) as lines_without_amount,
    cast(lines_left as bigint) as lines_left,
    case
        when lines_left = 0 or lines_left > lines_without_amount_left then cast(amount_left as decimal(38, 4))
    end as amount_left
from remaining
