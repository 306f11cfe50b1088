with features as (
    select * from rfm_features where frequency > 0
),

cuts as (
    select * from (values (1), (2), (3), (4)) as listed(cut)
),

long as (
    select 'monetary' as feature, cast(monetary as double) as x from features
    union all
    select 'frequency', cast(frequency as double) from features
    union all
    select 'recency', cast(recency as double) from features
),

ranked as (
    select
        feature,
        x,
        row_number() over (partition by feature order by x) - 1 as place,
        count(*) over (partition by feature) - 1 as last_place
    from long
),

-- Interpolated between neighbours, as by numpy; spelt out, because engines differ in what they call a quantile.
placed as (
    select ranked.feature, cuts.cut, ranked.x, ranked.place, cuts.cut * ranked.last_place / 5.0e0 as wanted
    from ranked
    cross join cuts
)

select feature, cut, min(x) + (max(x) - min(x)) * (wanted - floor(wanted)) as threshold
from placed
where place >= floor(wanted) and place <= ceil(wanted)
group by feature, cut, wanted
