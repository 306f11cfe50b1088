with scores as (
    select * from (values (1), (2), (3), (4), (5)) as listed(score)
),

combinations as (
    select
        r.score as recency_score,
        f.score as frequency_score,
        m.score as monetary_score,
        (f.score + m.score + 1) // 2 as worth
    from scores as r
    cross join scores as f
    cross join scores as m
)

-- The grid of recency by worth is the one that RFM practitioners share; each of its 25 fields has one name.
select
    recency_score,
    frequency_score,
    monetary_score,
    case
        when recency_score = 5 and worth >= 4 then 'Champions'
        when recency_score = 5 and worth >= 2 then 'Potential Loyalist'
        when recency_score = 5 then 'New'
        when recency_score >= 3 and worth >= 4 then 'Loyal'
        when recency_score = 4 and worth >= 2 then 'Potential Loyalist'
        when recency_score = 4 then 'Promising'
        when recency_score = 3 and worth = 3 then 'Need Attention'
        when recency_score = 3 then 'About To Sleep'
        when worth = 5 then 'Can''t Lose'
        when worth >= 3 then 'At Risk'
        else 'Lost'
    end as rfm_segment
from combinations
