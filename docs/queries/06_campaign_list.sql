-- Whom does a campaign for RE-ENGAGE address, without its control group?
-- For the whole list leave out `limit`. Keep the name of the release with it, because the next one may have other
-- customers in the segment. `segments export` writes whole tables for spreadsheets.
select customer_id, rfm_segment, monetary, recency, as_of
from customer_segments
where segment_key = 're_engage'
    and not is_control
order by monetary desc, customer_id
limit 5;
