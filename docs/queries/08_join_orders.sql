-- What do REWARD customers buy? A join back to orders
-- A join on `customer_id`, which a release has as text, without `.0` and with whatever `[customers]` of the retailer
-- file changes. With `privacy.pseudonymise`, only the pipeline can join: the id is a keyed hash.
with orders as (
    select distinct *
    from read_csv('data/sample/source/transactions-*.csv', all_varchar = true)
    where regexp_full_match(InvoiceNo, '\d{6}')
)

select
    StockCode as stock_code,
    max(trim(Description)) as description,
    count(distinct customer_id) as customers,
    count(distinct InvoiceNo) as orders,
    sum(cast(Quantity as bigint)) as units
from orders
inner join customer_segments on customer_id = regexp_replace(CustomerID, '\.0$', '')
where segment_key = 'reward'
group by StockCode
order by customers desc, stock_code
limit 10;
