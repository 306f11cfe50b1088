select
    judged.source_file, judged.source_sheet, judged.source_line,
    judged.invoice, judged.stock_code, judged.description, judged.quantity, judged.transaction_at, judged.price,
    judged.amount, judged.customer_id, judged.country, judged.unparsed,
    rules.rule, rules.reason
from judged_transactions as judged
inner join cleaning_rules as rules on judged.step = rules.step
