-- One row per outlier segment and product. Few customers are left out: what they buy describes single persons.
select products.segment_key, place, product, products.description, products.customers, products.customer_share, products.revenue
from outlier_products as products
inner join segment_profiles as profiles on products.segment_key = profiles.segment_key
where profiles.customers >= 5 and place <= 5
order by profiles.revenue desc, products.segment_key, place
