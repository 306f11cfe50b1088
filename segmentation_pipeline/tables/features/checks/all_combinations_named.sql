-- One row per combination of scores that has no rule-based segment, or more than one.
select recency_score, frequency_score, monetary_score, count(rfm_segment) as names
from range(1, 6) as r(recency_score)
cross join range(1, 6) as f(frequency_score)
cross join range(1, 6) as m(monetary_score)
left join rfm_segment_map using (recency_score, frequency_score, monetary_score)
group by all
having names <> 1
order by all
