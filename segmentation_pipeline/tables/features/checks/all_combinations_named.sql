-- One row per combination of scores that has no rule-based segment, or more than one.
with scores as (
    select * from (values (1), (2), (3), (4), (5)) as listed(score)
),

named as (
    select * from rfm_segment_map
)

select
    r.score as recency_score,
    f.score as frequency_score,
    m.score as monetary_score,
    count(named.rfm_segment) as names
from scores as r
cross join scores as f
cross join scores as m
left join named
    on r.score = named.recency_score and f.score = named.frequency_score and m.score = named.monetary_score
group by r.score, f.score, m.score
having count(named.rfm_segment) <> 1
order by 1, 2, 3
