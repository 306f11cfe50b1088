"""What the lines as they are read show: customers with ids in several forms, and lines that two files have.

Contains settings whose right value only a person knows. The comparisons are those of a run's checks.
"""

from segmentation_pipeline.config.retailer import Retailer
from segmentation_pipeline.ingestion.sampling import Sample
from segmentation_pipeline.inspection.guesses import Draft
from segmentation_pipeline.privacy.customer_ids import SimilarIds, similar_ids_select
from segmentation_pipeline.tables.catalog import select_of

_MIN_LINES = 10


def add_copies(draft: Draft, sample: Sample, retailer: Retailer) -> None:
    """Leave open whether similar ids are one customer, and whether equal lines of two files count once."""
    if sample.error:
        return
    ids = SimilarIds.of(sample.warehouse.row(similar_ids_select("select customer_id from clean_transactions")))
    if ids.number:
        names = list(ids.by_normalisation) or ["trim", "strip_decimal", "strip_leading_zeros", "lower"]
        text = (
            f"{ids.number:,} of {ids.ids:,} ids of customers differ from another one in form only. Which differences do"
            " not matter?"
        )
        draft.add("customers.normalise", None, text, choices=[names, []])
    repeated = sample.warehouse.rows(select_of("file_overlaps"), sources_overlap=False)
    shared = sum(row["lines"] for row in repeated if row["share"] > retailer.checks.max_repeated_share)
    if shared >= _MIN_LINES:
        text = f"{shared:,} of the lines are in two files, as whole orders. Do they count once (true)?"
        draft.add("cleaning.sources_overlap", None, text, choices=[True, False])
