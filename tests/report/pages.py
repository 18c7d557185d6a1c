"""A page as a tree, read by the standard library's parser: what a browser would find in it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "link", "input", "br", "img", "hr", "wbr", "base", "source", "area", "col"}

_BLOCKS = {"p", "dt", "dd", "th", "td", "li", "div", "h1", "h2", "h3", "section", "details"}


@dataclass
class Node:
    """An element; its text is in `children` as strings."""

    tag: str
    attributes: dict[str, str]
    children: list["Node | str"] = field(default_factory=list)

    def all(self, *tags: str) -> Iterator["Node"]:
        """Every element below with one of these tags, in order; all without one."""
        for child in self.children:
            if isinstance(child, Node):
                if not tags or child.tag in tags:
                    yield child
                yield from child.all(*tags)

    def by_id(self, name: str) -> "Node":
        (found,) = [n for n in self.all() if n.attributes.get("id") == name]
        return found

    def by_class(self, name: str) -> list["Node"]:
        return [n for n in self.all() if name in n.attributes.get("class", "").split()]

    @property
    def text(self) -> str:
        """All text below, spaces as one; a block is apart from what stands beside it."""
        return " ".join("".join(self._words()).split())

    def _words(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            else:
                yield from ([" ", *child._words(), " "] if child.tag in _BLOCKS else child._words())

    @property
    def raw(self) -> str:
        return "".join(c if isinstance(c, str) else c.raw for c in self.children)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("#page", {})
        self.open = [self.root]
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.faults.append(f"<{tag}> has an attribute twice")
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in _VOID:
            self.open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Node(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self.open[-1].tag == tag:
            self.open.pop()
        else:
            self.faults.append(f"</{tag}> within <{self.open[-1].tag}>")

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parsed(page: str) -> Node:
    """The page's tree.

    Raises:
        AssertionError: An element is closed within another, twice or never.
    """
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert not reader.faults, reader.faults[:5]
    assert len(reader.open) == 1, [n.tag for n in reader.open]
    return reader.root
