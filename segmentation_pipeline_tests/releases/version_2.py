"""Rewrite releases and working databases of tests with the tables, columns and values of contract 2."""

from pathlib import Path

import duckdb

from segmentation_pipeline.releases.files import STATE_DATABASE, Release, checksum
from segmentation_pipeline.releases.manifest import write_manifest

_STATUSES_2 = {"active": "standing", "pending": "held", "approved": "promoted"}
_FILE_STATUSES_2 = {"missing": "gone", "quarantined": "set_aside"}


def _case(column: str, values: dict[str, str]) -> str:
    cases = " ".join(f"when '{now}' then '{before}'" for now, before in values.items())
    return f"case {column} {cases} else {column} end"


# The tables of the state as version 0.2.0 created them, each with the SELECT of its rows from today's table.
STATE: dict[str, tuple[str, str]] = {
    "forgotten_customers": (
        "customer_hash VARCHAR, key_fingerprint VARCHAR, as_of TIMESTAMP",
        "select * from new.erased_customers",
    ),
    "ingested_files": (
        "source_file VARCHAR, status VARCHAR, lines BIGINT, broken BIGINT, erased BIGINT, columns VARCHAR[],"
        " types VARCHAR[], size BIGINT, modified_at TIMESTAMP, content_hash VARCHAR, settings_digest VARCHAR,"
        " source_path VARCHAR, run_id VARCHAR, reason VARCHAR",
        f"select * replace ({_case('status', _FILE_STATUSES_2)} as status) from new.ingested_files",
    ),
    "kmeans_candidates": (
        "n_clusters INTEGER, inertia DOUBLE, silhouette DOUBLE, smallest_share DOUBLE, mean_ari DOUBLE,"
        " worst_ari DOUBLE, is_chosen BOOLEAN, passes BOOLEAN, verdict VARCHAR",
        "select n_clusters, inertia, silhouette, smallest_share, mean_ari, worst_ari, is_chosen, passes, verdict"
        " from new.kmeans_candidates",
    ),
    "model_centroids": (
        "model_id VARCHAR, cluster INTEGER, segment_key VARCHAR, customers BIGINT, scaled_monetary DOUBLE,"
        " scaled_frequency DOUBLE, scaled_recency DOUBLE, mean_monetary DOUBLE, mean_frequency DOUBLE,"
        " mean_recency DOUBLE",
        "select * from new.model_centroids",
    ),
    "model_features": (
        "model_id VARCHAR, feature VARCHAR, exponent DOUBLE, center DOUBLE, scale DOUBLE, q1 DOUBLE, q3 DOUBLE,"
        " factor DOUBLE, lower_fence DOUBLE, upper_fence DOUBLE, bin_edges DOUBLE[], bin_shares DOUBLE[]",
        "select * from new.model_features",
    ),
    "raw_transactions": (
        "source_file VARCHAR, source_sheet VARCHAR, source_line BIGINT, invoice VARCHAR, stock_code VARCHAR,"
        " description VARCHAR, quantity DECIMAL(18,3), transaction_at TIMESTAMP, price DECIMAL(18,4),"
        " amount DECIMAL(18,4), customer_id VARCHAR, country VARCHAR, unparsed VARCHAR",
        "select * from new.raw_transactions",
    ),
    "segment_membership": (
        "customer_id VARCHAR, segment_key VARCHAR, is_held BOOLEAN, model_id VARCHAR, reason VARCHAR,"
        " valid_from TIMESTAMP, valid_to TIMESTAMP",
        "select * from new.segment_membership",
    ),
    "segmentation_models": (
        "model_id VARCHAR, number INTEGER, status VARCHAR, fitted_as_of TIMESTAMP, promoted_by VARCHAR,"
        " standing_from TIMESTAMP, standing_to TIMESTAMP, settings_digest VARCHAR, transform VARCHAR,"
        " n_clusters INTEGER, random_state BIGINT, customers BIGINT, inertia DOUBLE, silhouette DOUBLE,"
        " smallest_share DOUBLE, fence_step DOUBLE, moved_share DOUBLE, kept_share DOUBLE, agreement DOUBLE,"
        " reasons VARCHAR",
        "select * exclude (compared_month_ends)"
        f" replace ({_case('status', _STATUSES_2)} as status, 'of version 2' as settings_digest)"
        " from new.segmentation_models",
    ),
    "segments": (
        "segment_key VARCHAR, segment VARCHAR, customer_group VARCHAR, description VARCHAR, action VARCHAR,"
        " colour VARCHAR, introduced_by VARCHAR, is_live BOOLEAN",
        "select * from new.segments",
    ),
}


def write_state(old: Path, new: Path) -> dict[str, int]:
    """Write a database with the tables of the state of contract 2, from a database of today; return the row counts."""
    with duckdb.connect(str(old)) as connection:
        connection.execute(f"attach '{new}' as new (read_only)")
        for table, (columns, select) in STATE.items():
            connection.execute(f"create table {table} ({columns}); insert into {table} {select}")
        return {table: int(connection.execute(f"select count(*) from {table}").fetchall()[0][0]) for table in STATE}


def convert_release(release: Release) -> None:
    """Rewrite a release as version 0.2.0 would have published it, as far as names are concerned."""
    new, old = release.state.with_name("new.duckdb"), release.folder / STATE_DATABASE
    old.rename(new)
    state = write_state(old, new)
    new.unlink()
    for file in release.folder.iterdir():
        file.chmod(0o600)
    with duckdb.connect(str(release.database)) as connection:
        connection.execute("alter table backtest_metrics rename to backtest_figures")
        connection.execute("alter table segmentation_models rename active_from to standing_from")
    (release.folder / "backtest_metrics.parquet").rename(release.folder / "backtest_figures.parquet")
    manifest = {key: value for key, value in release.manifest.items() if key != "digest"}
    tables = dict(manifest["tables"])
    tables["backtest_figures"] = tables.pop("backtest_metrics")
    names = [file for file in sorted(release.folder.iterdir()) if file.name != "manifest.json"]
    manifest |= {
        "contract_version": "2.0.0",
        "versions": {**manifest["versions"], "segmentation_pipeline": "0.2.0"},
        "tables": tables,
        "state": state,
        "files": {file.name: checksum(file) for file in names},
    }
    write_manifest(release.folder, manifest)
