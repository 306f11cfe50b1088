"""Draw the picture of the README: the share of customers and of revenue of each segment of the sample.

`python tools/readme_picture.py DOCS` draws it from the current release of the sample into `DOCS/pictures/sample.svg`.
`make picture` runs the sample first.
"""

import sys
from pathlib import Path

from segmentation_pipeline.config.loading import load_settings
from segmentation_pipeline.config.paths import RetailerFolders, data_folder
from segmentation_pipeline.releases.store import Releases
from segmentation_pipeline.reports import charts
from segmentation_pipeline.reports.frames import read_frames
from segmentation_pipeline.reports.rendering import compact, svg_of

if __name__ == "__main__":
    sample = load_settings("sample")
    release = Releases(RetailerFolders(data_folder(), sample.name).releases).current
    if release is None:
        sys.exit("There is no release of the sample: run `make picture`.")
    chart = charts.segment_sizes(read_frames(release)["segments"], sample.currency)
    (Path(sys.argv[1]) / "pictures" / "sample.svg").write_text(compact(svg_of(chart)) + "\n", "utf-8")
