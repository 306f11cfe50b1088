with judged as (
    select * from judged_transactions
),

rules as (
    select * from cleaning_rules
)

select
    judged.source_file, judged.source_sheet, judged.source_line,
    judged.invoice, judged.stock_code, judged.description, judged.quantity, judged.transaction_at, judged.price,
    judged.amount, judged.customer_id, judged.country, judged.unparsed,
    rules.rule, rules.reason
from judged
inner join rules on judged.step = rules.step
