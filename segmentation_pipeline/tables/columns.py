"""The columns that more than one table has, and the values that they may take: the words of the contracts.

Belongs here: what a word means wherever it stands. Does not: the tables (`tables`, `model_tables`).
"""

from dataclasses import replace

from segmentation_pipeline.model.naming import SEGMENTS
from segmentation_pipeline.model.segmentation_model import FEATURES
from segmentation_pipeline.tables.contract import Column

MONEY = "DECIMAL(18,4)"
GROUPS = ("normal", "outlier", "inactive")
SIDES = ("high", "low")
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
MONTH_END = Column("month_end", "TIMESTAMP", "The midnight that ends the month", "retailer's local time")
IS_COMPARABLE = Column(
    "is_comparable", "BOOLEAN", "Whether there is as much history before it as the look-back (or 365 days) asks for"
)
STATUSES = ("standing", "held", "promoted", "retired")
DECIDERS = ("run", "person")
REASONS = ("new", "behaviour", "model", "gone", "erased")
FITTED_AS_OF = replace(AS_OF, name="fitted_as_of", description="The as-of date of the fit")
DIGEST = Column("settings_digest", "VARCHAR", "Digest of the settings that it was fitted with")
FIT = (
    Column("transform", "VARCHAR", "What the features go through first", allowed=TRANSFORMS),
    Column("n_clusters", "INTEGER", "Number of clusters", minimum=2),
    Column("random_state", "BIGINT", "Seed of the fit"),
    Column("customers", "BIGINT", "Normal customers that it was fitted on", "customers", minimum=1),
    Column("inertia", "DOUBLE", "Sum of squared distances to the nearest centroid, in scaled units", minimum=0),
    Column(
        "silhouette", "DOUBLE", "Mean silhouette (on a seeded sample above 10,000 customers)", minimum=-1, maximum=1
    ),
)
SCALING = (
    Column("exponent", "DOUBLE", "Lambda of the Yeo-Johnson transform; null for others", nullable=True),
    Column("center", "DOUBLE", "Subtracted after the transform"), Column("scale", "DOUBLE", "Divided by after that"),
)  # fmt: skip
FENCES = (
    Column("q1", "DOUBLE", "First quartile of the active customers", "the feature's unit"),
    Column("q3", "DOUBLE", "Third quartile of the active customers", "the feature's unit"),
    Column("factor", "DOUBLE", "How many interquartile ranges beyond the quartiles a fence stands", minimum=0),
    Column("lower_fence", "DOUBLE", "A customer below it is an outlier", "the feature's unit"),
    Column("upper_fence", "DOUBLE", "A customer above it is an outlier", "the feature's unit"),
)  # fmt: skip
CENTROID = (
    Column("cluster", "INTEGER", "The cluster's number in this fit: arbitrary", minimum=0), SEGMENT_KEY,
    Column("customers", "BIGINT", "Customers in the cluster when it was fitted", "customers", minimum=1),
    *(Column(f"scaled_{name}", "DOUBLE", f"The centroid's {name}, scaled") for name in FEATURES),
    *(Column(f"mean_{name}", "DOUBLE", f"Mean {name} of its customers", "the feature's unit") for name in FEATURES),
)  # fmt: skip

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


def line(*required: str) -> tuple[Column, ...]:
    """The columns of a transaction, of which these must have a value."""
    return tuple(replace(column, nullable=column.name not in required) for column in LINE)
