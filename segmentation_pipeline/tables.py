"""The contract of each table: its grain, key, columns, types, units and rules stand here and nowhere else.

The structural checks, the Columns tab, the comments in the release and `docs/tables.md` are derived from it.
"""

from dataclasses import replace

from segmentation_pipeline.contracts import Column, Contract
from segmentation_pipeline.core.naming import SEGMENTS

# Of the published tables: a column that goes or changes its meaning is a new major version, one that comes a minor one.
CONTRACT_VERSION = "2.0.0"
MONEY = "DECIMAL(18,4)"
GROUPS = ("normal", "outlier", "inactive")
SIDES = ("high", "low")
FEATURES = ("monetary", "frequency", "recency")
TRANSFORMS = ("standard", "log", "yeo-johnson", "robust")
SEGMENT_KEYS = tuple(segment.key for segment in SEGMENTS)
RFM_SEGMENTS = (
    "Champions", "Loyal", "Potential Loyalist", "New", "Promising", "Need Attention", "About To Sleep", "At Risk",
    "Can't Lose", "Lost",
)  # fmt: skip

CUSTOMER_ID = Column("customer_id", "VARCHAR", "The customer, as the retailer names it")
AS_OF = Column("as_of", "TIMESTAMP", "The moment up to which transactions count", "retailer's local time")
RECENCY = Column(
    "recency", "INTEGER", "Full days from the last purchase (or else the first line) to as_of", "days", minimum=0
)
FREQUENCY = Column(
    "frequency", "INTEGER", "Distinct purchase invoices; refunds never add to it", "purchases", minimum=0
)
MONETARY = Column("monetary", MONEY, "Money spent net of refunds", "retailer's currency")
PURCHASE_DAYS = Column("purchase_days", "INTEGER", "Distinct days with a purchase", "days", minimum=0)
EXPECTED_GAP = Column(
    "expected_gap",
    "DOUBLE",
    "Days to expect between two purchase days: (the sum of the customer's n gaps + 2 x the median of everybody's gaps)"
    " / (n + 2); null with fewer than two purchase days",
    "days",
    nullable=True,
    minimum=1,
)
SCORES = tuple(
    Column(f"{name}_score", "INTEGER", f"{meaning} = 5", minimum=1, maximum=5)
    for name, meaning in (("recency", "Most recent"), ("frequency", "Most frequent"), ("monetary", "Highest spend"))
)
RFM_SEGMENT = Column("rfm_segment", "VARCHAR", "The rule-based segment of these scores", allowed=RFM_SEGMENTS)
SEGMENT_KEY = Column("segment_key", "VARCHAR", "The segment's permanent key", allowed=SEGMENT_KEYS)
SEGMENT = Column("segment", "VARCHAR", "The segment's name")
GROUP = Column("customer_group", "VARCHAR", "Within all fences, beyond one, or nothing to fit", allowed=GROUPS)
FEATURE = Column("feature", "VARCHAR", "The feature's name", allowed=FEATURES)
ACTION = Column("action", "VARCHAR", "What to do with the segment")
DESCRIPTION = Column("description", "VARCHAR", "What the segment is, in a sentence")
MODEL_ID = Column("model_id", "VARCHAR", "The segmentation model, named by as-of date and content")

LINE_KEY = (
    Column("source_file", "VARCHAR", "The file's path below the source folder"),
    Column("source_sheet", "VARCHAR", "The workbook's sheet; empty for other files"),
    Column("source_line", "BIGINT", "The record's number in its file or sheet, a header being number 1", minimum=1),
)
LINE = (
    Column("invoice", "VARCHAR", "The invoice number; a number read as 17850.0 is 17850", nullable=True),
    Column("stock_code", "VARCHAR", "The product's code", nullable=True),
    Column("description", "VARCHAR", "The product's name, as it came", nullable=True),
    Column("quantity", "DECIMAL(18,3)", "Units; negative on a cancellation", "units", nullable=True),
    Column("transaction_at", "TIMESTAMP", "When the line was sold", "retailer's local time", nullable=True),
    Column("price", MONEY, "Price of a unit", "retailer's currency", nullable=True),
    Column(
        "amount", MONEY, "Money of the line: the source's, or quantity x price", "retailer's currency", nullable=True
    ),
    Column("customer_id", "VARCHAR", "The customer; a number read as 17850.0 is 17850", nullable=True),
    Column("country", "VARCHAR", "The customer's country", nullable=True),
)
CLEAN_REQUIRED = {"invoice", "transaction_at", "amount", "customer_id"}
UNPARSED = Column(
    "unparsed", "VARCHAR", "JSON of column to text, for the values that could not be typed", nullable=True
)


def _line(*required: str) -> tuple[Column, ...]:
    return tuple(replace(column, nullable=column.name not in required) for column in LINE)


CONTRACTS = {
    contract.table: contract
    for contract in (
        Contract(
            "raw_transactions", "one row is one line of a source file, as it came",
            "A value that could not be typed is null in its column and kept as text in `unparsed`.",
            ("source_file", "source_sheet", "source_line"), (*LINE_KEY, *_line(), UNPARSED),
        ),
        Contract(
            "clean_transactions", "one row is one transaction that counts",
            "The lines of `raw_transactions` that every cleaning rule lets through, up to as_of.",
            ("source_file", "source_sheet", "source_line"),
            (*LINE_KEY, *_line(*CLEAN_REQUIRED),
             Column("is_cancellation", "BOOLEAN", "The line takes back an earlier one; its amount is a refund")),
            if_empty="every line was refused",
        ),
        Contract(
            "rejected_transactions", "one row is one refused line, with the first rule that refused it",
            "With `clean_transactions` it makes up `raw_transactions`, in lines and in money.",
            ("source_file", "source_sheet", "source_line"),
            (*LINE_KEY, *_line(), UNPARSED, Column("rule", "VARCHAR", "The rule's name"),
             Column("reason", "VARCHAR", "Why the rule refuses such a line")),
            may_be_empty=True,
        ),
        Contract(
            "cleaning_report", "one row is one step of the cleaning, in the order of the rules",
            "The loss: what each rule refused, and what was left after it; step 0 is what was read.",
            ("step",),
            (Column("step", "INTEGER", "The rule's place in the order", minimum=0),
             Column("rule", "VARCHAR", "The rule's name; `read` for what came in"),
             Column("reason", "VARCHAR", "Why the rule refuses such a line"),
             Column("lines", "BIGINT", "Lines refused (step 0: read)", "lines", minimum=0),
             Column("share", "DOUBLE", "Share of the lines read", minimum=0, maximum=1),
             Column("customers", "BIGINT", "Distinct customers on these lines", "customers", minimum=0),
             Column("amount", "DECIMAL(38,4)", "Money on these lines, where it could be read", "retailer's currency"),
             Column("lines_left", "BIGINT", "Lines left after this step", "lines", minimum=0),
             Column("amount_left", "DECIMAL(38,4)", "Money left after this step", "retailer's currency")),
            published=True,
        ),
        Contract(
            "purchase_rhythm", "one row is one customer with a purchase, and its rhythm",
            "Over all the data up to as_of: a look-back window would cut the long gaps out, and with them the slow customers.",
            ("customer_id",), (CUSTOMER_ID, replace(PURCHASE_DAYS, minimum=1), EXPECTED_GAP), may_be_empty=True,
        ),
        Contract(
            "rfm_features", "one row is one customer of `clean_transactions`, as of as_of",
            "With a look-back window, frequency, money and products count within it; recency, dates and rhythm over all.",
            ("customer_id",),
            (CUSTOMER_ID, RECENCY, FREQUENCY, MONETARY,
             Column("gross", MONEY, "Money spent before refunds", "retailer's currency", minimum=0),
             Column("refunds", MONEY, "Money given back: cancellations, and negative money on any other invoice", "retailer's currency", minimum=0),
             Column("average_order_value", MONEY, "Gross by frequency; null without a purchase", "retailer's currency", nullable=True),
             Column("products", "INTEGER", "Distinct products bought", "products", minimum=0),
             Column("first_purchase_at", "TIMESTAMP", "First purchase; null without one", "retailer's local time", nullable=True),
             Column("last_purchase_at", "TIMESTAMP", "Last purchase; null without one", "retailer's local time", nullable=True),
             Column("tenure", "INTEGER", "Full days from the first purchase to as_of; null without one", "days", nullable=True, minimum=0),
             PURCHASE_DAYS, EXPECTED_GAP, Column("country", "VARCHAR", "The country of most spend", nullable=True), AS_OF),
            published=True,
        ),
        Contract(
            "rfm_thresholds", "one row is one of the four cuts of a feature into five scores",
            "Quintiles of the customers with a purchase. A value's score counts the cuts below it, so equal values score equally.",
            ("feature", "cut"),
            (FEATURE, Column("cut", "INTEGER", "The cut's number", minimum=1, maximum=4),
             Column("threshold", "DOUBLE", "The feature's quantile at cut x 20 %", "the feature's unit")),
            published=True,
        ),
        Contract(
            "rfm_segment_map", "one row is one of the 125 combinations of scores",
            "The rule-based segment by recency score and the rounded-up mean of the frequency and monetary scores.",
            ("recency_score", "frequency_score", "monetary_score"), (*SCORES, RFM_SEGMENT), published=True,
        ),
        Contract(
            "rfm_scores", "one row is one customer with its scores from 1 to 5",
            "The rule-based RFM segment is the baseline that the fitted segments are held against.",
            ("customer_id",), (CUSTOMER_ID, *SCORES, RFM_SEGMENT), published=True,
        ),
        Contract(
            "inactive_customers", "one row is one customer with nothing to fit",
            "DORMANT made no purchase (within the look-back, where there is one); REFUNDED has nothing left after refunds.",
            ("customer_id",),
            (CUSTOMER_ID, RECENCY, FREQUENCY, MONETARY, replace(SEGMENT_KEY, allowed=("dormant", "refunded"))), may_be_empty=True,
        ),
        Contract(
            "outlier_fences", "one row is one feature with its Tukey fences",
            "Fitted: changes only when a refit is asked for, or the settings that it depends on change.",
            ("feature",),
            (FEATURE, Column("q1", "DOUBLE", "First quartile of the active customers", "the feature's unit"),
             Column("q3", "DOUBLE", "Third quartile of the active customers", "the feature's unit"),
             Column("factor", "DOUBLE", "How many interquartile ranges beyond the quartiles a fence stands", minimum=0),
             Column("lower_fence", "DOUBLE", "A customer below it is an outlier", "the feature's unit"),
             Column("upper_fence", "DOUBLE", "A customer above it is an outlier", "the feature's unit"),
             replace(AS_OF, name="fitted_as_of", description="The as-of date of the fit"),
             Column("settings_digest", "VARCHAR", "Digest of the settings that the fences were fitted with")),
            published=True,
        ),
        Contract(
            "normal_customers", "one row is one active customer within all fences", "What the k-means model is fitted on.",
            ("customer_id",), (CUSTOMER_ID, RECENCY, FREQUENCY, MONETARY),
            if_empty="every active customer is beyond a fence, or there is none",
        ),
        Contract(
            "outlier_customers", "one row is one active customer beyond a fence", "The few who make much of the revenue.",
            ("customer_id",),
            (CUSTOMER_ID, RECENCY, FREQUENCY, MONETARY,
             *(Column(f"{name}_side", "VARCHAR", f"Beyond which fence of {name}; null within", nullable=True, allowed=SIDES) for name in FEATURES)),
            may_be_empty=True,
        ),
        Contract(
            "kmeans_model", "one row is the standing k-means model",
            "Fitted by scikit-learn on normal_customers, sorted by key, with a fixed random_state.",
            ("model_id",),
            (MODEL_ID, replace(AS_OF, name="fitted_as_of", description="The as-of date of the fit"),
             Column("settings_digest", "VARCHAR", "Digest of the settings that the model was fitted with"),
             Column("transform", "VARCHAR", "What the features go through first", allowed=TRANSFORMS),
             Column("n_clusters", "INTEGER", "Number of clusters", minimum=2), Column("random_state", "BIGINT", "Seed of the fit"),
             Column("customers", "BIGINT", "Customers that it was fitted on", "customers", minimum=1),
             Column("inertia", "DOUBLE", "Sum of squared distances to the nearest centroid, in scaled units", minimum=0),
             Column("silhouette", "DOUBLE", "Mean silhouette (on a seeded sample above 10,000 customers)", minimum=-1, maximum=1)),
            published=True,
        ),
        Contract(
            "kmeans_scaler", "one row is one feature's scaling in the standing model",
            "scaled = (transformed - center) / scale; transformed by the model's transform, with `exponent` for yeo-johnson.",
            ("feature",),
            (FEATURE, Column("transform", "VARCHAR", "The model's transform", allowed=TRANSFORMS),
             Column("exponent", "DOUBLE", "Lambda of the Yeo-Johnson transform; null for others", nullable=True),
             Column("center", "DOUBLE", "Subtracted after the transform"), Column("scale", "DOUBLE", "Divided by after that")),
            published=True,
        ),
        Contract(
            "kmeans_centroids", "one row is one centroid of the standing model",
            "In scaled units (where distances are measured) and as the mean of its customers in natural units.",
            ("cluster",),
            (Column("cluster", "INTEGER", "The cluster's number in this fit: arbitrary", minimum=0), SEGMENT_KEY,
             Column("customers", "BIGINT", "Customers in the cluster when it was fitted", "customers", minimum=1),
             *(Column(f"scaled_{name}", "DOUBLE", f"The centroid's {name}, scaled") for name in FEATURES),
             *(Column(f"mean_{name}", "DOUBLE", f"Mean {name} of its customers", "the feature's unit") for name in FEATURES)),
            published=True,
        ),
        Contract(
            "kmeans_segments", "one row is one normal customer with its nearest centroid",
            "Computed in SQL from the model's tables; ties go to the lowest segment key.",
            ("customer_id",),
            (CUSTOMER_ID, Column("cluster", "INTEGER", "The nearest centroid", minimum=0), SEGMENT_KEY,
             Column("distance", "DOUBLE", "Euclidean distance to it, in scaled units", minimum=0),
             Column("second_distance", "DOUBLE", "Distance to the second nearest", minimum=0)),
        ),
        Contract(
            "outlier_segments", "one row is one outlier customer with the segment of the fences that it crossed",
            "PAMPER crosses monetary only, UPSELL frequency only, DELIGHT both; EXAMINE any fence on the side of less value, or that of the unusually recent alone.",
            ("customer_id",), (CUSTOMER_ID, SEGMENT_KEY), may_be_empty=True,
        ),
        Contract(
            "segments", "one row is one segment that a customer can be in",
            "What each segment means; a key or a name never comes to mean something else.",
            ("segment_key",), (SEGMENT_KEY, SEGMENT, GROUP, DESCRIPTION, ACTION), published=True,
        ),
        Contract(
            "customer_segments", "one row is one customer, with its segment",
            "Every customer of `clean_transactions` exactly once: normal, outlier and inactive together.",
            ("customer_id",),
            (CUSTOMER_ID, SEGMENT, SEGMENT_KEY,
             Column("nearest_segment", "VARCHAR", "The segment that today's features alone would give"), GROUP, RECENCY, FREQUENCY,
             MONETARY,
             Column("is_slipping", "BOOLEAN", "recency is beyond rfm.slipping_factor x expected_gap; null where that is null", nullable=True),
             *SCORES, RFM_SEGMENT, ACTION, AS_OF, MODEL_ID),
            published=True,
        ),
        Contract(
            "segment_profiles", "one row is one segment that has customers", "Size, revenue and typical customer of each segment.",
            ("segment_key",),
            (SEGMENT_KEY, SEGMENT, GROUP, Column("customers", "BIGINT", "Customers in the segment", "customers", minimum=1),
             Column("customer_share", "DOUBLE", "Share of all customers", minimum=0, maximum=1),
             Column("revenue", "DECIMAL(38,4)", "Sum of monetary", "retailer's currency"),
             Column("revenue_share", "DOUBLE", "Share of all revenue; null where that is not positive", nullable=True),
             *(Column(f"{figure}_{name}", "DOUBLE", f"{figure.capitalize()} {name}", "the feature's unit") for name in FEATURES for figure in ("mean", "median")),
             DESCRIPTION, ACTION, AS_OF),
            published=True,
        ),
        Contract(
            "outlier_profiles", "one row is one outlier segment that has customers",
            "The few who make much of the revenue: how concentrated that is, and how much of it is slipping away.",
            ("segment_key",),
            (SEGMENT_KEY, SEGMENT, Column("customers", "BIGINT", "Customers in the segment", "customers", minimum=1),
             Column("customer_share", "DOUBLE", "Share of all customers, outliers or not", minimum=0, maximum=1),
             Column("revenue", "DECIMAL(38,4)", "Sum of monetary", "retailer's currency"),
             Column("revenue_share", "DOUBLE", "Share of all revenue; null where that is not positive", nullable=True),
             Column("gini", "DOUBLE", "Gini coefficient of monetary within the segment: 0 all spend the same, near 1 one spends all", minimum=0, maximum=1),
             Column("top_10_share", "DOUBLE", "Share of the segment's revenue made by its ten top customers (all, where there are fewer)", minimum=0, maximum=1),
             Column("slipping_customers", "BIGINT", "Customers that are slipping", "customers", minimum=0),
             Column("revenue_at_risk", "DECIMAL(38,4)", "Sum of monetary of those", "retailer's currency", minimum=0),
             Column("revenue_at_risk_share", "DOUBLE", "Share of the segment's revenue", minimum=0, maximum=1),
             Column("mean_recency", "DOUBLE", "Mean recency", "days", minimum=0), AS_OF),
            published=True, may_be_empty=True,
        ),
    )
}  # fmt: skip

PUBLISHED = tuple(contract for contract in CONTRACTS.values() if contract.published)
