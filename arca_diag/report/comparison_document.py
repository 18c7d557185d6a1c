"""A comparison put into a document: what changed, what was not alike, every figure, how to read."""

from collections.abc import Sequence

from arca_diag.compared import Comparison, FigureChange, Sets
from arca_diag.report.comparison_words import (
    HOW_TO_READ,
    finding_words,
    headline,
    name,
    regime_words,
    sides,
    title,
)
from arca_diag.report.document import (
    Block,
    Document,
    Facts,
    Level,
    Paragraph,
    Section,
    Table,
)
from arca_diag.report.numbers import figure as number
from arca_diag.report.numbers import with_limits
from arca_diag.report.picture import Picture
from arca_diag.report.words import count

_HOW = {"paired": "paired", "like-length": "at like length", "independent": "both intervals"}
#: Statuses in the order in which a table has them.
_ORDER = ("changed", "within-noise", "equal", "inconclusive", "undefined")


def comparison_document(found: Comparison, pictures: Sequence[Picture] = ()) -> Document:
    """The document of a comparison.

    Args:
        found: The comparison.
        pictures: Those that could be drawn, in reading order.
    """
    level, verdict = _banner(found)
    asked = found.of("changed", "within-noise")
    return Document(
        title=f"{found.a.run} and {found.b.run}",
        level=level,
        verdict=verdict,
        headline=headline(found),
        marks=(
            "A and B compared",
            count(len(found.figures), "figure"),
            f"{count(len(asked), 'difference')} with an interval that is called",
        ),
        sections=(
            *_unlike(found),
            Section(
                id="compared", title="What is compared", blocks=(Facts(rows=tuple(sides(found))),)
            ),
            *_changes(found),
            *_pictures(pictures),
            *(_figures(found, sets) for sets in found.sets),
            Section(id="method", title="How to read it", blocks=(Paragraph(text=HOW_TO_READ),)),
        ),
        made=max(found.a.made, found.b.made),
        maker=f"{found.tool['name']} {found.tool['version']}",
    )


def _banner(found: Comparison) -> tuple[Level, str]:
    """Unlike results are a warning; a change is neither good nor bad, and so a note."""
    if not found.checkpoints:
        return "error", "nothing to compare"
    if any(one.level == "warn" for one in found.unlike):
        return "warn", "not measured alike"
    changed = found.of("changed")
    if changed:
        return "note", f"{count(len(changed), 'figure')} changed"
    if found.of("within-noise", "equal"):
        return "good", "nothing changed outside noise"
    return "warn", "nothing can be called"


def _unlike(found: Comparison) -> tuple[Section, ...]:
    if not found.unlike:
        return ()
    table = Table(
        title="What differs beside the policy",
        head=("what", "level", "how"),
        rows=tuple((one.what, one.level, one.message) for one in found.unlike),
        caption="Under a warning the two measure different things: what differs may come from "
        "that alone. Under a note they are compared all the same.",
    )
    return (Section(id="unlike", title="What does not compare", blocks=(table,)),)


def _changes(found: Comparison) -> tuple[Section, ...]:
    """Regimes, causes and findings that are not what they were."""
    moved = [one for one in found.regimes if one.moved]
    several = len(found.checkpoints) > 1
    blocks: list[Block] = []
    if moved:
        rows = []
        for one in moved:
            pair = f"{one.checkpoint_a} and {one.checkpoint_b}, " if several else ""
            rows.append((f"{pair}{one.view}", one.signal, regime_words(one)))
        blocks.append(
            Table(
                title="Regimes and causes, from A to B",
                head=("view", "signal", "what became of it"),
                rows=tuple(rows),
                caption="A regime moves too where a share was near its cut, or with more prompts.",
            )
        )
    elif found.regimes:
        blocks.append(Paragraph(text="Regimes and causes are the same in both."))
    if found.findings:
        rows_ = tuple(("", line) for line in finding_words(found.findings))
        blocks.append(Facts(rows=rows_))
    return (
        Section(id="changes", title="What became of the verdicts", blocks=tuple(blocks)),
    ) * bool(blocks)


def _pictures(pictures: Sequence[Picture]) -> list[Section]:
    headings = dict.fromkeys(picture.section for picture in pictures)
    return [
        Section(
            id=f"pictures-{number_}",
            title=heading,
            blocks=tuple(p for p in pictures if p.section == heading),
        )
        for number_, heading in enumerate(headings)
    ]


def _figures(found: Comparison, sets: Sets) -> Section:
    """Every figure of one view: what changed first."""
    place = (sets.checkpoint_a, sets.checkpoint_b, sets.view)
    here = [f for f in found.figures if (f.checkpoint_a, f.checkpoint_b, f.view) == place]
    here.sort(key=lambda f: (_ORDER.index(f.status), not f.holds))
    several = len(found.checkpoints) > 1
    return Section(
        id=f"figures-{'-'.join(map(str, place))}",
        title=f"Figures, {sets.view}",
        blocks=(
            Table(
                title=f"{sets.view}{title(sets, several)}",
                head=("figure", "A", "B", "B - A", "how", "prompts", "called"),
                rows=tuple(_row(f) for f in here),
                right=frozenset({1, 2, 3, 5}),
                caption="95% limits over prompts in brackets.",
            ),
        ),
    )


def _row(one: FigureChange) -> tuple[str, ...]:
    a, b, of = (with_limits(v.value, v.low, v.high) for v in (one.a, one.b, one.difference))
    return (name(one), a, b, of, _HOW[one.how], f"{one.n_clusters:,}", called(one))


def called(one: FigureChange) -> str:
    """What a difference is called, in words."""
    if one.status == "changed":
        corrected = "corrected" if one.holds else "uncorrected"
        slight = ", by less than .005" if one.slight else ""
        return f"changed, {corrected}{slight} (p {number(one.p)}, {number(one.p_holm)})"
    word = one.status.replace("-", " ")
    return f"{word}: {one.reason}" if one.reason else word
