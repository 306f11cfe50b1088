-- One row per cleaning rule, with the lines and the money that it rejects; the first row is all lines that were read.
select step, rule, reason, lines, share, amount, amount_share, lines_left
from cleaning_report
order by step
