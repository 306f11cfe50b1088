-- One row per feature and bar of its histogram. Bars of monetary have equal widths of its logarithm; the last bar of
-- frequency holds all customers above the 99th percentile.
with customers as (
    select recency, frequency, cast(monetary as double) as monetary
    from customer_segments
),

widths as (
    select
        greatest(1, ceil(quantile_cont(frequency, 0.99) / 30)) as frequency_width,
        quantile_disc(frequency, 0.99) as frequency_end,
        greatest(1, ceil(max(recency) / 40)) as recency_width
    from customers
),

bars as (
    select 'monetary' as feature, floor(log10(monetary) * 8) as bar, count(*) as customers
    from customers
    where monetary > 0
    group by all
    union all
    select 'frequency', floor(least(frequency, frequency_end) / frequency_width), count(*)
    from customers
    cross join widths
    where frequency > 0
    group by all
    union all
    select 'recency', floor(recency / recency_width), count(*)
    from customers
    cross join widths
    group by all
)

select
    feature,
    case feature
        when 'monetary' then pow(10, bar / 8)
        when 'frequency' then bar * frequency_width
        else bar * recency_width
    end as low,
    case feature
        when 'monetary' then pow(10, (bar + 1) / 8)
        when 'frequency' then (bar + 1) * frequency_width
        else (bar + 1) * recency_width
    end as high,
    customers
from bars
cross join widths
order by feature, low
