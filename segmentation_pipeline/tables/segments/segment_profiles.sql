select
    segment_key,
    catalogue.segment,
    catalogue.customer_group,
    count(*) as customers,
    cast(count(*) as double) / sum(count(*)) over () as customer_share,
    cast(sum(monetary) as decimal(38, 4)) as revenue,
    case
        when sum(sum(monetary)) over () > 0
            then cast(sum(monetary) as double) / cast(sum(sum(monetary)) over () as double)
    end as revenue_share,
    cast(sum(monetary) as double) / count(*) as mean_monetary,
    median(cast(monetary as double)) as median_monetary,
    avg(frequency) as mean_frequency,
    median(frequency) as median_frequency,
    avg(recency) as mean_recency,
    median(recency) as median_recency,
    cast(sum(value.expected_spend_90) as decimal(38, 4)) as expected_spend_90,
    cast(sum(value.expected_spend_365) as decimal(38, 4)) as expected_spend_365,
    cast(sum(value.expected_spend_365) as double) / count(value.expected_spend_365) as mean_expected_spend_365,
    cast(sum(value.spend_at_risk_365) filter (where customers.is_lapsing) as decimal(38, 4)) as spend_at_risk_365,
    catalogue.description,
    catalogue.action,
    max(customers.as_of) as as_of
from customer_segments as customers
left join customer_value as value using (customer_id)
inner join segments as catalogue using (segment_key)
group by all
