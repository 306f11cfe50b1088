-- Which data are these numbers made of?
-- The end of the data, the time of the model, and the lines that each rule left out. Print it below a report.
select
    (select max(as_of) from customer_segments) as data_until,
    (select fitted_as_of from kmeans_model) as model_of,
    rule,
    lines,
    round(100 * share, 2) as percent_of_lines,
    amount
from cleaning_report
where lines > 0
order by step;
