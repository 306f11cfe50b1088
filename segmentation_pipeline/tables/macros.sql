-- Rules of the segmentation that several SELECTs and the function `score_customer` of a release share.
-- A macro depends on its parameters alone: it reads no table and calls no other macro. A release holds the body of each
-- with the constants of its model inlined (see segments/score_macro.py).

-- The segment of an inactive customer; null for an active one.
create or replace temp macro inactive_segment(frequency, monetary) as
    case when frequency = 0 then 'dormant' when monetary <= 0 then 'refunded' end;

-- The fence that a value is beyond; null on a fence, between the fences, or without fences.
create or replace temp macro fence_side(x, lower_fence, upper_fence) as
    case when x > upper_fence then 'high' when x < lower_fence then 'low' end;

-- The segment of an outlier; null for a customer within all fences.
-- A long absence means less value, as little money does: its high side leads to EXAMINE.
create or replace temp macro outlier_segment(monetary_side, frequency_side, recency_side) as
    case
        when monetary_side = 'low' or frequency_side = 'low' or recency_side = 'high' then 'examine'
        when monetary_side = 'high' and frequency_side = 'high' then 'delight'
        when monetary_side = 'high' then 'pamper'
        when frequency_side = 'high' then 'upsell'
        when recency_side = 'low' then 'examine'
    end;

-- A feature, transformed, centred and scaled. The transform is that of Yeo & Johnson (2000), whose branches for the
-- exponents 0 and 2 are limits of the others; log, which is its exponent 0; or none.
create or replace temp macro scaled(x, transform, exponent, center, scale) as (
    case
        when transform = 'log' then ln(1 + x)
        when transform <> 'yeo-johnson' then x
        when x >= 0 and exponent = 0 then ln(1 + x)
        when x >= 0 then (pow(1 + x, exponent) - 1) / exponent
        when exponent = 2 then -ln(1 - x)
        else -(pow(1 - x, 2 - exponent) - 1) / (2 - exponent)
    end - center
) / scale;

-- The Euclidean distance of two points in scaled units. `list_distance` differs in the last bit, and therefore in ties.
create or replace temp macro scaled_distance(monetary, frequency, recency, to_monetary, to_frequency, to_recency) as
    sqrt(pow(monetary - to_monetary, 2) + pow(frequency - to_frequency, 2) + pow(recency - to_recency, 2));
