"""Pictures inside a page: they take its colour of text and share no id with it or each other."""

from arca_diag.report.charts import svg as documents
from arca_diag.report.charts.ink import INK


def for_page(svg: str, prefix: str) -> str:
    """A picture as an element of an HTML page.

    It is as wide as its place and no wider than it was drawn for. Title and description, which a
    browser would show as tooltips, are said by `aria-label`.

    Args:
        svg: Of a `Picture`.
        prefix: Stands before every id; another for every picture of a page.
    """
    root = documents.read(svg)
    documents.drop(root, "title")
    alt = documents.drop(root, "desc")
    names = documents.sorted_names(root)
    documents.rename(root, {name: f"{prefix}{name}" for name in names})
    for element in root.iter():
        for key, value in element.attrib.items():
            if INK in value:
                element.set(key, value.replace(INK, "currentColor"))
    width = float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"]
    root.set("style", f"width: 100%; max-width: {width * 4 / 3:.0f}px; height: auto")
    root.set("role", "img")
    root.set("aria-label", alt)
    return documents.write(root)
