"""A result as a document: what every page says, in the order in which a reader asks.

HTML, PDF and Markdown render the same document, so that none of them can say another thing. All
of it is plain text; each rendering escapes it for its own form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from arca_diag.report.picture import Picture

Level = Literal["error", "warn", "note", "good"]


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Text that runs on; `small` for what stands under something."""

    text: str
    small: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and texts, a line each; a line without a name goes on with the one before."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under heads.

    Attributes:
        title: Stands above it.
        head: A word a column.
        rows: As many cells each as there are heads.
        caption: Stands under it; may be empty.
        right: Columns whose cells are figures, aligned right, counted from 0.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    right: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.head) for row in self.rows):
            raise ValueError(f"{self.title}: a row has not {len(self.head)} cells")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finding: what it says, at which checkpoints, what shows it, what follows, what to do.

    Attributes:
        id: What `arca-diag explain` explains.
        level: How bad it is.
        where: Checkpoints and signal; may be empty.
        message: What it says.
        follows: Findings that follow from it.
        action: What to do.
        evidence: Figures that show it, by name.
        source: Where the rule comes from.
    """

    id: str
    level: Literal["error", "warn", "note"]
    where: str
    message: str
    follows: tuple[str, ...]
    action: str
    evidence: tuple[tuple[str, str], ...]
    source: str


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line to type."""

    text: str


Block = Paragraph | Facts | Table | Found | Command | Picture


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part with a heading; `folded` where most readers do not need it."""

    id: str
    title: str
    blocks: tuple[Block, ...]
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole document.

    Attributes:
        title: What it is of.
        level: Of the banner: the worst that was found; `good` where nothing was.
        verdict: The banner's few words.
        headline: The one sentence that a reader takes along.
        sections: In reading order.
        made: When the result was made, as ISO 8601, from the result: no clock.
        maker: Tool and version.
        marks: Words under the title: what was scanned, and how many.
    """

    title: str
    level: Level
    verdict: str
    headline: str
    sections: tuple[Section, ...]
    made: str
    maker: str
    marks: tuple[str, ...] = field(default=())

    def pictures(self) -> Sequence[Picture]:
        """All pictures, in order."""
        return [b for s in self.sections for b in s.blocks if isinstance(b, Picture)]

    def without_pictures(self) -> "Document":
        """The same without pictures, and without headings that only they stood under."""
        parts = [
            (s, tuple(b for b in s.blocks if not isinstance(b, Picture))) for s in self.sections
        ]
        kept = tuple(replace(s, blocks=blocks) for s, blocks in parts if blocks)
        return replace(self, sections=kept)
