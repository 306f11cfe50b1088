"""Run the pipeline's job with empty assets, to measure what Dagster costs for this number of steps and checks.

Prints `all steps N s`, as `segments run` does. Dagster writes its event log to DAGSTER_HOME.
"""

import uuid
from collections.abc import Iterator
from typing import Any

import dagster as dg

from segmentation_pipeline.definitions import defs
from segmentation_pipeline.orchestration.event_log import keep_event_log_open

Results = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]


def emptied(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """Return an asset with the same keys, dependencies and checks that computes nothing."""

    @dg.multi_asset(name=asset.op.name, specs=list(asset.specs), check_specs=list(asset.check_specs))
    def nothing() -> Results:
        for check in asset.check_specs:
            yield dg.AssetCheckResult(check_name=check.name, asset_key=check.asset_key, passed=True)
        for spec in asset.specs:
            yield dg.MaterializeResult(asset_key=spec.key, metadata={"dagster/row_count": 0})

    return nothing


def passed(check: dg.AssetChecksDefinition) -> dg.AssetChecksDefinition:
    """Return a check of the same names that computes nothing and passes."""

    @dg.multi_asset_check(name=check.op.name, specs=list(check.check_specs))
    def nothing() -> Iterator[dg.AssetCheckResult]:
        for spec in check.check_specs:
            yield dg.AssetCheckResult(check_name=spec.name, asset_key=spec.asset_key, passed=True)

    return nothing


def main() -> None:
    """Run the empty job, and add up the time of its steps."""
    real = defs()
    checks = [passed(check) for check in real.asset_checks or [] if isinstance(check, dg.AssetChecksDefinition)]
    found = [asset for asset in real.assets or [] if isinstance(asset, dg.AssetsDefinition)]
    # The checks are assets' definitions too.
    assets = [emptied(asset) for asset in found if not isinstance(asset, dg.AssetChecksDefinition)]
    empty = dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[dg.define_asset_job("alone", selection=dg.AssetSelection.all())],
        executor=dg.in_process_executor,
    )
    with dg.DagsterInstance.get() as instance:
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        run_id = str(uuid.uuid4())
        with keep_event_log_open(instance, run_id):
            job = empty.resolve_job_def("alone")
            result = job.execute_in_process(instance=instance, run_config=quiet, run_id=run_id)
    steps = [event.step_success_data.duration_ms for event in result.all_events if event.is_step_success]
    print(f"all steps {sum(steps) / 1000:.2f} s")


if __name__ == "__main__":
    main()
