"""Draw charts as SVG and PNG.

Contains what the report and the interface do with a chart. The charts themselves are in `charts`.
"""

import re
from io import BytesIO
from typing import Any

from segmentation_pipeline.reports.theme import GRID, INK, MUTED, PAPER

# Colours of the page, which its style sheet sets for light, dark and print.
_OF_THE_PAGE = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)", PAPER: "var(--paper)"}
_EMPTY = re.compile(r'<path d=""[^>]*/>|<path d="M0,0h0v0h0Z"[^>]*/>')
_NEEDLESS = re.compile(r' (?:class|role|aria-[a-z]+|pointer-events|version)="[^"]*"')
_NAMESPACES = re.compile(r' xmlns(?::xlink)?="[^"]*"')
_TAG = re.compile(r"<[^>]*>")
_LONG_NUMBER = re.compile(r"(\d+\.\d)\d+")


def svg_of(chart: Any) -> str:
    """Return a chart as an SVG element, without script and address."""
    import vl_convert

    return str(vl_convert.vegalite_to_svg(chart.to_dict()))


def png_of(svg: str, scale: float = 1.0) -> bytes:
    """Return a drawn chart as PNG with 256 colours, which is a tenth as large as one with all."""
    import vl_convert
    from PIL import Image

    with Image.open(BytesIO(vl_convert.svg_to_png(svg, scale=scale))) as image, BytesIO() as written:
        image.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(written, "png", optimize=True)
        return written.getvalue()


def compact(svg: str) -> str:
    """Return a drawn chart without what no reader sees, which makes it a third as large."""
    # Only within tags: many currencies write thousands as 1.234, and a product may be called anything.
    return _TAG.sub(lambda tag: _LONG_NUMBER.sub(r"\1", _NEEDLESS.sub("", tag[0])), _EMPTY.sub("", svg))


def inlined(svg: str, label: str) -> str:
    """Return a drawn chart as an element of a page: compact, in the colours of the page, and with a label.

    Args:
        svg: The SVG that `svg_of` returned.
        label: The id of the element that names the chart.
    """
    plain = _NAMESPACES.sub("", compact(svg))
    plain = re.sub(r'<rect width="[\d.]+" height="[\d.]+" fill="#ffffff"/>', "", plain, count=1)
    for colour, of_page in _OF_THE_PAGE.items():
        plain = plain.replace(f'"{colour}"', f'"{of_page}"')
    size = re.search(r'viewBox="0 0 ([\d.]+) ', plain)
    width = size[1] if size else "460"
    return plain.replace(
        "<svg", f'<svg role="img" aria-labelledby="{label}" style="max-width:{float(width) * 1.25:.0f}px"', 1
    )
