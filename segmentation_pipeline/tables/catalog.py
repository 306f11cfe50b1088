"""The contract of each table: its grain, key, columns, types, units and rules stand here and nowhere else.

The structural checks, the Columns tab, the comments in the release and `docs/tables.md` are derived from it. The contracts of
the model and of the segments over time are in `model_tables`.
"""

from dataclasses import replace

from segmentation_pipeline.model.segmentation_model import FEATURES
from segmentation_pipeline.tables.columns import (
    ACTION,
    AS_OF,
    CLEAN_REQUIRED,
    CUSTOMER_ID,
    DESCRIPTION,
    EXPECTED_GAP,
    FEATURE,
    FREQUENCY,
    GROUP,
    LINE_KEY,
    MODEL_ID,
    MONETARY,
    MONEY,
    PURCHASE_DAYS,
    RECENCY,
    RFM_SEGMENT,
    SCORES,
    SEGMENT,
    SEGMENT_KEY,
    SIDES,
    UNPARSED,
    line,
)
from segmentation_pipeline.tables.contract import Column, Contract, quoted
from segmentation_pipeline.tables.model_catalog import MODEL_CONTRACTS

# Of the published tables: a column that goes or changes its meaning is a new major version, one that comes a minor one.
CONTRACT_VERSION = "2.0.0"
_CONTRACTS = (
    Contract(
        "raw_transactions", "one row is one line of a source file, as it came",
        "A value that could not be typed is null in its column and kept as text in `unparsed`.",
        ("source_file", "source_sheet", "source_line"), (*LINE_KEY, *line(), UNPARSED),
    ),
    Contract(
        "ingested_files", "one row is one source file, with what became of it",
        "The ledger of the mouth: a run reads what is new or has changed. Lines of a file that is gone, or cannot be read any more, stay as they were loaded.",
        ("source_file",),
        (LINE_KEY[0], Column("status", "VARCHAR", "Loaded, gone since (its lines are kept), or set aside because it cannot be read", allowed=("loaded", "gone", "set_aside")),
         Column("lines", "BIGINT", "Its lines in `raw_transactions`", "lines", minimum=0),
         Column("broken", "BIGINT", "Of these, those that are no record, kept as text", "lines", minimum=0),
         Column("erased", "BIGINT", "Its lines that are left out, because their customers are forgotten", "lines", minimum=0),
         Column("columns", "VARCHAR[]", "Its columns, those of all its sheets, as it names them"),
         Column("types", "VARCHAR[]", "Their types; empty but for Parquet"),
         Column("size", "BIGINT", "Its size when it was looked at last", "bytes", minimum=0),
         Column("modified_at", "TIMESTAMP", "When it was written, as the file system tells", "UTC"),
         Column("content_hash", "VARCHAR", "SHA-256 of its content, unpacked where it is gzip; null where it could not be looked at", nullable=True),
         Column("settings_digest", "VARCHAR", "Digest of the settings and of the code that read it"),
         Column("source_path", "VARCHAR", "Where the source was when it was read"),
         Column("run_id", "VARCHAR", "The run that loaded it, found it gone or set it aside"),
         Column("reason", "VARCHAR", "Why it was set aside; null where it was not", nullable=True)),
        is_state=True,
    ),
    Contract(
        "forgotten_customers", "one row is one customer who was erased, as a keyed hash",
        "All that is remembered of them, so that their lines do not come back. Written by `segments forget` alone.",
        ("customer_hash",),
        (Column("customer_hash", "VARCHAR", "HMAC-SHA256 of the customer"),
         Column("key_fingerprint", "VARCHAR", "Tells by which SEGMENTATION_PRIVACY_KEY"),
         replace(AS_OF, description="The as_of of the release from which they were erased")),
        may_be_empty=True, is_state=True,
    ),
    Contract(
        "clean_transactions", "one row is one transaction that counts",
        "The lines of `raw_transactions` that every cleaning rule lets through, up to as_of.",
        ("source_file", "source_sheet", "source_line"),
        (*LINE_KEY, *line(*CLEAN_REQUIRED),
         Column("is_cancellation", "BOOLEAN", "The line takes back an earlier one; its amount is a refund")),
        if_empty="every line was refused",
    ),
    Contract(
        "rejected_transactions", "one row is one refused line, with the first rule that refused it",
        "With `clean_transactions` it makes up `raw_transactions`, in lines and in money.",
        ("source_file", "source_sheet", "source_line"),
        (*LINE_KEY, *line(), UNPARSED, Column("rule", "VARCHAR", "The rule's name"),
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
        "fence_sides", "one row is one fenced feature of one active customer, with the side of the fences on which it is",
        "By today's features alone, and as it is held: a customer crosses a fence only beyond a margin.",
        ("customer_id", "feature"),
        (CUSTOMER_ID, FEATURE, Column("nearest_side", "VARCHAR", "Beyond which fence today's value is; null within", nullable=True, allowed=SIDES),
         Column("side", "VARCHAR", "Beyond which fence the customer counts; null within", nullable=True, allowed=SIDES),
         Column("beyond", "DOUBLE", "How far the value is above the upper fence, or (negative) below the lower one; 0 within", "the feature's unit")),
        may_be_empty=True,
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
         *(Column(f"{name}_side", "VARCHAR", f"Beyond which fence of {name}; null within", nullable=True, allowed=SIDES) for name in FEATURES),
         *(Column(f"{name}_beyond", "DOUBLE", f"How far beyond it: above the upper fence, or negative below the lower; null without fences of {name}", "the feature's unit", nullable=True) for name in FEATURES)),
        may_be_empty=True,
    ),
    Contract(
        "scaled_customers", "one row is one active customer with its features as the standing model scales them",
        "Where distances are measured.", ("customer_id",),
        (CUSTOMER_ID, *(Column(f"scaled_{name}", "DOUBLE", f"The customer's {name}, scaled") for name in FEATURES)),
        if_empty="no customer has a purchase and money left after refunds",
    ),
    Contract(
        "nearest_centroids", "one row is one active customer with its nearest centroid, outliers included",
        "Euclidean distances in scaled units; ties go to the lowest segment key.", ("customer_id",),
        (CUSTOMER_ID, Column("cluster", "INTEGER", "The nearest centroid", minimum=0), SEGMENT_KEY,
         Column("distance", "DOUBLE", "Distance to it", minimum=0),
         Column("second_distance", "DOUBLE", "Distance to the second nearest", minimum=0),
         Column("standing_distance", "DOUBLE", "Distance to the centroid of the segment in which it stood; null where it stood in none that has one", nullable=True, minimum=0)),
    ),
    Contract(
        "nearest_segments", "one row is one customer with the segment that today's features alone would give",
        "What `score_customer` gives too: it knows nothing of where a customer was before.", ("customer_id",), (CUSTOMER_ID, SEGMENT_KEY),
    ),
    Contract(
        "assigned_segments", "one row is one customer with the segment that it is in",
        "It leaves the segment in which it stood only where another is clearly nearer, or after it was held for too long.",
        ("customer_id",),
        (CUSTOMER_ID, SEGMENT_KEY, replace(SEGMENT_KEY, name="nearest_key", description="The nearest segment's key"),
         Column("is_held", "BOOLEAN", "Whether it is held off its nearest segment"),
         Column("margin", "DOUBLE", "By which share the nearest centroid is nearer than the second; null but for normal customers", nullable=True, minimum=0, maximum=1)),
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
        "customer_segments", "one row is one customer, with its segment",
        "Every customer of `clean_transactions` exactly once: normal, outlier and inactive together.",
        ("customer_id",),
        (CUSTOMER_ID, SEGMENT, SEGMENT_KEY,
         Column("nearest_segment", "VARCHAR", "The segment that today's features alone would give"),
         Column("is_held", "BOOLEAN", "Whether the customer is held off it: not clearly nearer yet"),
         Column("margin", "DOUBLE", "By which share the nearest centroid is nearer than the second; null but for normal customers", nullable=True, minimum=0, maximum=1),
         Column("previous_segment", "VARCHAR", "The segment as of the run before; null for a new customer", nullable=True),
         Column("segment_since", "TIMESTAMP", "The run from which it has been in this segment", "retailer's local time"),
         Column("is_control", "BOOLEAN", "Left alone by campaigns, to measure them: a share of every segment, by a hash of the customer"),
         GROUP, RECENCY, FREQUENCY, MONETARY,
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
)  # fmt: skip
CONTRACTS = {contract.table: contract for contract in (*_CONTRACTS, *MODEL_CONTRACTS)}
PUBLISHED = tuple(contract for contract in CONTRACTS.values() if contract.published)
_OF_CUSTOMERS = [contract for contract in PUBLISHED if contract.is_of_customers]
# What a retailer may leave out of a release: what stands in its tables of customers, but for their keys.
MAY_BE_WITHHELD = tuple(
    sorted(
        {column.name for contract in _OF_CUSTOMERS for column in contract.columns}
        - {name for contract in _OF_CUSTOMERS for name in contract.key}
    )
)
# The files whose lines no run can read again.
WITHOUT_SOURCE = "select * from ingested_files where status <> 'loaded' and lines > 0"
# What no source gives back, each with the SELECT of it.
STATE = {
    **{
        contract.table: f"select * from {quoted(contract.table)}"
        for contract in CONTRACTS.values()
        if contract.is_state
    },
    "ingested_files": WITHOUT_SOURCE,
    "raw_transactions": "select * from raw_transactions where source_file in"
    " (select source_file from ingested_files where status <> 'loaded' and lines > 0)",
}
