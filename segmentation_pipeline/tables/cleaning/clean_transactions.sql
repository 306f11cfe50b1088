select
    source_file, source_sheet, source_line,
    invoice, stock_code, description, quantity, transaction_at, price, amount, customer_id, country,
    is_cancellation
from judged_transactions
where step is null
