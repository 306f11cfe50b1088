-- Expressions that several columns or SELECTs share. A macro depends on its parameters alone: it reads no table and
-- calls no other macro.

-- The local time that a text in ISO 8601 names.
create or replace temp macro iso_time(text, time_zone) as
    case
        when regexp_matches(text, ':[0-9]{2}([.][0-9]+)?(Z| ?UTC|[+-][0-9]{2}(:?[0-9]{2})?)$')
            then try_cast(text as timestamptz) at time zone time_zone
        -- Words such as infinity and epoch are no time of a sale.
        when left(text, 1) between '0' and '9' then try_cast(text as timestamp)
    end;

-- A number that is written with its sign behind it, in parentheses, with a currency or with blanks or apostrophes
-- between thousands, as a number in plain notation; null if the text does not match the pattern of these. Text editors
-- and spreadsheets write several characters for minus, blank and apostrophe.
create or replace temp macro written_number(text, pattern, currency_mark, thousands, decimal_mark) as
    case
        when regexp_full_match(
            trim(translate(
                text,
                '−‐‑‒–﹣－’‘' || chr(160) || chr(8199) || chr(8201) || chr(8239),
                '-------' || repeat(chr(39), 2) || '    '
            )),
            pattern
        )
        then
            case
                when regexp_matches(
                    regexp_replace(translate(text, '−‐‑‒–﹣－', '-------'), currency_mark, '', 'g'), '[-(]'
                ) then '-'
                else ''
            end
            || replace(
                replace(
                    regexp_replace(regexp_replace(text, currency_mark, '', 'g'), '[^0-9.,]', '', 'g'), thousands, ''
                ),
                decimal_mark, '.'
            )
    end;

-- Whether a text begins with the word for a total, as the last line of a report does, in English, German, French,
-- Spanish, Italian or Portuguese.
create or replace temp macro is_total(text) as
    regexp_matches(
        text,
        '(?i)^[^\p{L}]*((grand|sub|report|overall)[ -]?)?(totals?|totaux|total[ei]|tota(le|i)s|summe|gesamt|'
        || '(gesamt|zwischen|end)(summe|betrag)|somme|suma|soma)([^\p{L}]|$)'
    );

-- A decimal that a text was cast to, if it has the digits of the text; null if it is rounded. The digits that a double
-- adds to a short number (2.5500000000000003) do not count: they are less than 5e-16 of it, and rounding a number that
-- was written with 15 digits or fewer changes it by more.
create or replace temp macro exact_decimal(text, rounded) as
    case when abs(try_cast(text as double) - rounded) <= 5e-16 * abs(rounded) then rounded end;

-- A text with each letter as `a` and each digit as `9`, which shows its form and not its content.
create or replace temp macro masked_pattern(text) as
    regexp_replace(regexp_replace(text, '\p{N}', '9', 'g'), '\p{L}', 'a', 'g');

-- The time up to which transactions count: that of the settings, or the end of the last day, or the last transaction.
create or replace temp macro as_of_time(last_transaction_at, fixed, to_end_of_day) as
    case
        when fixed is not null then cast(fixed as timestamp)
        when to_end_of_day then cast(cast(last_transaction_at as date) as timestamp) + interval '1' day
        else last_transaction_at
    end;

-- The macros below are rules of the segmentation. A release holds the body of each with the constants of its model
-- inlined (see segments/score_macro.py).

-- The segment of an inactive customer; null for an active one. Less than no money is left only after refunds.
create or replace temp macro inactive_segment(frequency, monetary, refunds) as
    case
        when frequency = 0 then 'dormant'
        when monetary < 0 or (monetary = 0 and refunds > 0) then 'refunded'
        when monetary = 0 then 'no_spend'
    end;

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
