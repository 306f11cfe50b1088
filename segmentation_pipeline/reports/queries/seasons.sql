-- One row per outlier segment and month of the year. Few customers are left out: what they buy describes single persons.
select months.segment_key, month_of_year, months.revenue_share, others_revenue_share
from outlier_months as months
inner join segment_profiles as profiles on months.segment_key = profiles.segment_key
where profiles.customers >= 5 and months.revenue_share is not null
order by profiles.revenue desc, months.segment_key, month_of_year
