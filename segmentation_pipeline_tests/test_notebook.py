"""The notebook runs from start to end, recomputes what a release contains, and is committed without outputs."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from segmentation_pipeline_tests.shops import Shop

FOLDER = Path(__file__).parents[1] / "notebooks"
# Appended to the cells, so that it sees what they computed.
CHECKS = """
import numpy as np

assert np.allclose(recomputed[["lower", "upper"]], fences[["lower_fence", "upper_fence"]]), "fences"
assert set(normal["customer_group"]) == {"normal"}, "normal"
assert set(outliers["customer_group"]) == {"outlier"}, "outliers"
assert np.allclose(scales, of_the_model[["center", "scale"]].loc[FEATURES]), "scales"
assert agreement > 0.9, agreement
assert fitted.inertia_ < 1.05 * model["inertia"], fitted.inertia_
print("recomputed", len(active))
"""


def notebook() -> Any:
    return nbformat.read(FOLDER / "explore.ipynb", as_version=4)


def test_the_notebook_has_no_outputs() -> None:
    cells = [cell for cell in notebook().cells if cell.cell_type == "code"]
    assert len(cells) > 7
    assert [cell.source for cell in cells if cell.outputs or cell.execution_count is not None] == []


def test_the_notebook_recomputes_a_release_in_pictures(
    finished_template: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a first release, whose model was fitted on the same customers."""
    monkeypatch.setenv("SEGMENTATION_DATA", str(finished_template.data))
    monkeypatch.setenv("SEGMENTATION_RETAILER", str(finished_template.retailer))
    # Threads that wait for each other take longer than sixty customers do.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    opened = notebook()
    opened.cells.append(nbformat.v4.new_code_cell(CHECKS))
    NotebookClient(opened, timeout=120, resources={"metadata": {"path": str(FOLDER)}}).execute()
    outputs = [output for cell in opened.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 7
    [(active,)] = finished_template.released(
        "select count(*) from customer_segments where customer_group <> 'inactive'"
    )
    assert outputs[-1]["text"] == f"recomputed {active}\n"
    assert [output["text"] for output in outputs if output.get("name") == "stderr"] == []


def test_the_notebook_goes_through_every_step() -> None:
    text = "\n".join(cell.source for cell in notebook().cells if cell.cell_type == "markdown")
    steps = ["Cleaning", "Features", "Outliers", "Normalisation", "clusters", "Segments", "outliers again"]
    assert all(step in title for step, title in zip(steps, re.findall(r"^## (.*)$", text, re.MULTILINE), strict=True))
