select
    customer_id,
    scaled(cast(monetary as double), m.transform, m.exponent, m.center, m.scale) as scaled_monetary,
    scaled(cast(frequency as double), f.transform, f.exponent, f.center, f.scale) as scaled_frequency,
    scaled(cast(recency as double), r.transform, r.exponent, r.center, r.scale) as scaled_recency
from rfm_features
inner join kmeans_scaler as m on m.feature = 'monetary'
inner join kmeans_scaler as f on f.feature = 'frequency'
inner join kmeans_scaler as r on r.feature = 'recency'
where inactive_segment(frequency, monetary, refunds) is null
