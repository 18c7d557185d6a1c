"""SVG documents as small as they can be without looking another way, and the same every time."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape, quoteattr

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_NAMESPACES = (
    'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" version="1.1"'
)
# Not what stands within a colour (#56b4e9) or a name.
_NUMBER = re.compile(r"(?<![#\w.])-?\d*\.\d+(?:e-?\d+)?(?![\w.])")
_FONT = re.compile(r"font: (?:(\d+) )?([\d.]+px) ([^;]+)")
#: What the id of a part begins with that says what the part is of: it becomes its class.
CLASS = "of "
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_MEASURED = ("d", "x", "y", "transform", "style", "viewBox", "width", "height")
_WRITTEN = (f"{_SVG}text", f"{_SVG}tspan", f"{_SVG}title", f"{_SVG}desc")


def read(svg: str) -> Element:
    """The root of a document; comments and what stands before the root are gone."""
    return ElementTree.fromstring(svg)


def compact(svg: str, title: str, alt: str) -> str:
    """A document of matplotlib's with title and description, and without what draws nothing.

    Numbers keep two decimals of a point, ids are kept where something refers to them, and what
    a stylesheet said stands in attributes, so that it holds for this document alone.

    Args:
        svg: As matplotlib writes it.
        title: Names it.
        alt: What it shows, for who cannot see it.
    """
    root = read(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if _draws_nothing(child):
                parent.remove(child)
    for element in root.iter():
        for name in _MEASURED:
            if name in element.attrib:
                element.set(name, _shorter(element.attrib[name]))
        if "d" in element.attrib:
            element.set("d", re.sub(r"\s*([A-Za-z])\s*", r"\1", element.attrib["d"]).strip())
        if element.attrib.get("transform", "").startswith("rotate(0 "):
            del element.attrib["transform"]
        if element.attrib.get("id", "").startswith(CLASS):
            element.set("class", element.attrib["id"].removeprefix(CLASS))
        _hoist(element)
        _one_font(element, root)
    names = sorted_names(root)
    rename(root, {name: f"i{place}" for place, name in enumerate(names)})
    root.set("stroke-linejoin", "round")
    for place, (tag, text) in enumerate((("title", title), ("desc", alt))):
        element = Element(f"{_SVG}{tag}")
        element.text = text
        root.insert(place, element)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + write(root) + "\n"


def write(root: Element) -> str:
    """The document as text, without a declaration."""
    return "".join(_written(root, _NAMESPACES))


def sorted_names(root: Element) -> list[str]:
    """The ids that something refers to, in the order of the elements that have them."""
    asked = {
        name
        for element in root.iter()
        for key, value in element.attrib.items()
        for name in ([value[1:]] if key == f"{_XLINK}href" else _REFERENCE.findall(value))
    }
    return [e.attrib["id"] for e in root.iter() if e.attrib.get("id") in asked]


def rename(root: Element, names: dict[str, str]) -> None:
    """Give ids other names, here and where they are referred to; drop those not named."""
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key == "id":
                del element.attrib["id"]
                if value in names:
                    element.set("id", names[value])
            elif key == f"{_XLINK}href":
                element.set(key, f"#{names[value[1:]]}")
            elif "url(#" in value:
                element.set(key, _REFERENCE.sub(lambda m: f"url(#{names[m[1]]})", value))


def drop(root: Element, tag: str) -> str:
    """Take the root's child of that tag out; its text."""
    child = root.find(f"{_SVG}{tag}")
    if child is None:
        return ""
    root.remove(child)
    return child.text or ""


def _draws_nothing(element: Element) -> bool:
    """Metadata, the stylesheet, and paths that are neither filled nor drawn."""
    if element.tag == f"{_SVG}defs":
        return all(child.tag == f"{_SVG}style" for child in element)
    style = element.attrib.get("style", "")
    unpainted = "fill: none" in style and "stroke:" not in style
    return element.tag == f"{_SVG}metadata" or (element.tag == f"{_SVG}path" and unpainted)


def _hoist(group: Element) -> None:
    """Say once what all of a group's marks say of how they look."""
    styles = {child.attrib.get("style") for child in group}
    marks = all(child.tag == f"{_SVG}use" for child in group)
    if len(group) > 1 and marks and len(styles) == 1 and "style" not in group.attrib:
        style = styles.pop()
        if style:
            group.set("style", style)
            for child in group:
                del child.attrib["style"]


def _one_font(element: Element, root: Element) -> None:
    """Name the font once, where a page can name another."""
    found = _FONT.search(element.attrib.get("style", ""))
    if found:
        weight = f"; font-weight: {found[1]}" if found[1] else ""
        style = element.attrib["style"].replace(found[0], f"font-size: {found[2]}{weight}")
        element.set("style", style)
        root.set("font-family", found[3])


def _shorter(text: str) -> str:
    def rounded(found: re.Match[str]) -> str:
        short = f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
        return "0" if short == "-0" else short

    return _NUMBER.sub(rounded, text).replace("(-0 ", "(0 ")


def _written(element: Element, more: str = "") -> Iterator[str]:
    name = element.tag.removeprefix(_SVG)
    yield f"<{name}"
    if more:
        yield f" {more}"
    for key, value in element.attrib.items():
        if key != "version":
            yield f" {key.replace(_XLINK, 'xlink:')}={quoteattr(value)}"
    text = element.text or ""
    if element.tag not in _WRITTEN:
        text = text.strip()
    if not text and not len(element):
        yield "/>"
        return
    yield f">{escape(text)}"
    for child in element:
        yield from _written(child)
        if child.tail and element.tag in _WRITTEN:
            yield escape(child.tail)
    yield f"</{name}>"
