with combinations as (
    select
        cast(r.score as integer) as recency_score,
        cast(f.score as integer) as frequency_score,
        cast(m.score as integer) as monetary_score,
        (f.score + m.score + 1) // 2 as worth
    from range(1, 6) as r(score)
    cross join range(1, 6) as f(score)
    cross join range(1, 6) as m(score)
)

-- The grid of recency by worth that RFM practitioners share; each of its 25 cells has one name.
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
