"""A comparison put into a document: what changed, what was not alike, every figure, how to read."""

from collections.abc import Sequence

from arca_diag.compared import Comparison, FigureChange, Sets
from arca_diag.report.comparison_words import (
    HOW_TO_READ,
    SHORT,
    finding_words,
    headline,
    name,
    place,
    regime_words,
    sides,
    title,
    where,
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
from arca_diag.report.numbers import p_value
from arca_diag.report.picture import Picture
from arca_diag.report.words import count

#: Columns of figures and of their differences, as every table has them.
_HEAD = ("figure", "A", "B", "B - A", "95%")
#: Statuses that a table of what did not change has, in order; the others say why.
_UNCHANGED = ("within-noise", "equal")


def comparison_document(found: Comparison, pictures: Sequence[Picture] = ()) -> Document:
    """The document of a comparison.

    Args:
        found: The comparison.
        pictures: Those that could be drawn, in reading order.
    """
    level, verdict = _banner(found)
    asked = found.of("changed", "within-noise")
    return Document(
        title=_title(found),
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
            *(_changed(found, sets) for sets in found.sets),
            *_unchanged(found),
            Section(id="method", title="How to read it", blocks=(Paragraph(text=HOW_TO_READ),)),
        ),
        made=max(found.a.made, found.b.made),
        maker=f"{found.tool['name']} {found.tool['version']}",
    )


def _title(found: Comparison) -> str:
    """Which runs, and at which checkpoints."""
    a, b = found.a.run, found.b.run
    runs = f"two results of {a}" if a == b else f"{a} and {b}"
    return f"{runs}, {where(found)}" if found.checkpoints else runs


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


def _of(found: Comparison, sets: Sets) -> list[FigureChange]:
    key = (sets.checkpoint_a, sets.checkpoint_b, sets.view)
    return [f for f in found.figures if (f.checkpoint_a, f.checkpoint_b, f.view) == key]


def _changed(found: Comparison, sets: Sets) -> Section:
    """The figures of one place that changed: those that hold first, slight ones last."""
    here = [f for f in _of(found, sets) if f.status == "changed"]
    here.sort(key=lambda f: (f.slight, not f.holds))
    asked = len(found.of("changed", "within-noise"))
    table = _table(f"What changed, {place(sets)}{title(sets)}", here, asked)
    blocks: tuple[Block, ...] = (
        (table,)
        if here
        else (Paragraph(text=f"{place(sets)}{title(sets)}. No figure changed outside noise."),)
    )
    return Section(
        id=f"changed-{sets.checkpoint_a}-{sets.checkpoint_b}-{sets.view}",
        title=f"Figures, {place(sets)}",
        blocks=blocks,
    )


def _unchanged(found: Comparison) -> tuple[Section, ...]:
    """What did not change and what cannot be called, which few read."""
    asked = len(found.of("changed", "within-noise"))
    blocks: list[Block] = []
    for sets in found.sets:
        here = [f for f in _of(found, sets) if f.status in _UNCHANGED]
        here.sort(key=lambda f: _UNCHANGED.index(f.status))
        if here:
            blocks.append(_table(f"What did not change, {place(sets)}", here, asked))
        rest = [f for f in _of(found, sets) if f.status in ("inconclusive", "undefined")]
        if rest:
            rest.sort(key=lambda f: f.status)
            blocks.append(
                Table(
                    title=f"What is not called, {place(sets)}",
                    head=(*_HEAD, "why not"),
                    rows=tuple((*_cells(f), _word(f)) for f in rest),
                    right=frozenset({1, 2, 3}),
                    caption=_caption(rest, asked),
                )
            )
    title_ = "What did not change, and what is not called"
    section = Section(id="unchanged", title=title_, blocks=tuple(blocks), folded=True)
    return (section,) * bool(blocks)


def _table(words: str, rows: Sequence[FigureChange], asked: int) -> Table:
    """Figures with a call. Prompts have a column only where they are not the same throughout."""
    several = len({f.n_clusters for f in rows}) > 1
    return Table(
        title=words,
        head=(*_HEAD, "called", "p", "raw p", *(("prompts",) * several)),
        rows=tuple(
            (
                *_cells(f),
                called(f),
                p_value(f.p_holm),
                p_value(f.p),
                *((f"{f.n_clusters:,}",) * several),
            )
            for f in rows
        ),
        right=frozenset({1, 2, 3, 6, 7, 8}),
        caption=_caption(rows, asked),
    )


def _caption(rows: Sequence[FigureChange], asked: int) -> str:
    """What its columns are, and how the differences in it were taken."""
    prompts = {f.n_clusters for f in rows}
    alike = len(prompts) == 1 and prompts != {0}
    over = count(max(prompts), "prompt") if alike else "prompts"
    told = [f"95%: limits of B - A over {over}."]
    if any(f.p is not None for f in rows):
        told.append(f"p: corrected (Holm) for all {asked:,} that were asked; raw p: of one alone.")
    if any(f.status == "changed" and f.slight for f in rows):
        told.append("Slightly: changed by less than .005.")
    if any(f.how == "like-length" for f in rows):
        told.append("*: at like length, so that B - A need not be that of A and B.")
    both = [f for f in rows if f.how == "independent"]
    if both:
        names = ", ".join(dict.fromkeys(SHORT.get(f.name, f.name) for f in both))
        of = "B - A" if len(both) == len(rows) else f"B - A of {names}"
        told.append(f"{of} is from the intervals of A and of B.")
    return " ".join(told)


def _cells(one: FigureChange) -> tuple[str, ...]:
    of = one.difference
    limits = "" if of.low is None or of.high is None else f"{number(of.low)} to {number(of.high)}"
    return name(one), number(one.a.value), number(one.b.value), number(of.value), limits


def called(one: FigureChange) -> str:
    """What a difference is called, in a few words."""
    if one.status == "changed":
        word = "slightly" if one.slight else "changed"
        return word if one.holds else f"{word}, uncorrected"
    return _word(one)


def _word(one: FigureChange) -> str:
    word = one.status.replace("-", " ")
    return f"{word}: {one.reason}" if one.reason else word
