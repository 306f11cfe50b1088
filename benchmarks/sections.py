"""Write a section of a page of which other sections are written by hand."""

from pathlib import Path


def write_section(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what is between two marks on a page.

    Args:
        page: The page.
        begin: The mark before the section.
        end: The mark behind it.
        text: The new section.
    """
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", "utf-8")
