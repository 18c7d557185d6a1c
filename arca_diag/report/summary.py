"""A report put into a document: banner, findings, run card, verdicts, figures, method."""

from collections.abc import Iterator, Sequence
from typing import Any

from arca_diag.report.absent import not_drawn
from arca_diag.report.card import run_card
from arca_diag.report.document import (
    Block,
    Document,
    Facts,
    Found,
    Level,
    Paragraph,
    Section,
    Table,
)
from arca_diag.report.headline import headline, last_verdicts, no_fault
from arca_diag.report.method import method_section
from arca_diag.report.numbers import figure, with_limits
from arca_diag.report.picture import Picture
from arca_diag.report.reproduce import reproduce_section
from arca_diag.report.verdicts import because, earlier_verdicts, over_steps, remarks, share
from arca_diag.report.words import EFFN, GINI, VIEW_MEANS, at, count, places
from arca_diag.results import Finding, Report, View
from arca_diag.signals import SIGNAL_NAMES

VIEWS: tuple[View, View] = ("on-policy", "fixed-set")
_LEVELS: tuple[Level, ...] = ("error", "warn", "note")
#: Figures of the tables, with what they are called there.
_FIGURES = (
    ("gini_corrected", GINI),
    ("effn_corrected", EFFN),
    ("token_share_90", "tokens that hold 90%"),
    ("mean", "mean, raw"),
)


def report_document(report: Report, pictures: Sequence[Picture]) -> Document:
    """The document of a scan's result.

    Args:
        report: The result.
        pictures: Those that could be drawn, in reading order; they stand under their headings.
    """
    level, verdict = _banner(report)
    return Document(
        title=report.run.name,
        level=level,
        verdict=verdict,
        headline=headline(report),
        marks=_marks(report),
        sections=(
            _findings(report),
            Section(
                id="run",
                title="The run and the scan",
                blocks=(Facts(rows=(*run_card(report), *_figures_of(report))),),
            ),
            *(_verdicts(report, view) for view in VIEWS),
            *_picture_sections(pictures),
            _figures(report),
            _fidelity(report),
            _skipped(report, not_drawn(report, pictures)),
            method_section(report),
            reproduce_section(report),
        ),
        made=report.provenance.started_at,
        maker=f"{report.tool['name']} {report.tool['version']}",
    )


def _banner(report: Report) -> tuple[Level, str]:
    """The worst of the findings, and it in a few words: nothing measured is never good."""
    if report.status == "nothing-measured" or not last_verdicts(report):
        return "error", "nothing measured"
    if any(f.status == "fail" for f in report.replay_fidelity):
        return "error", "the replay is not the run"
    levels = [f.level for f in report.findings if f.caused_by is None]
    errors, warnings = levels.count("error"), levels.count("warn")
    told = [count(n, word) for n, word in ((errors, "error"), (warnings, "warning")) if n]
    if told:
        return "error" if errors else "warn", ", ".join(told)
    return "good", "no fault found"


def _marks(report: Report) -> tuple[str, ...]:
    """What was scanned, for who has the page and not the folder."""
    rollouts = report.rollouts
    return (
        count(sum(c.measured for c in report.run.checkpoints), "checkpoint"),
        count(rollouts.selected, "completion"),
        count(rollouts.clusters, "prompt"),
        f"{rollouts.tokens:,} tokens",
        *(("texts left out",) * _is_redacted(report)),
    )


def _is_redacted(report: Report) -> bool:
    return bool(report.provenance.options.get("redact_text"))


def _figures_of(report: Report) -> list[tuple[str, str]]:
    """What the run card has on a page and not on a terminal."""
    options = report.provenance.options
    own = [len(v) for v in _measured_views(report).values()]
    left_out = ("Texts", "left out (--redact-text): no prompt, completion, token or id is in here")
    return [
        *((left_out,) * _is_redacted(report)),
        (
            "Settings",
            f"sharpening s = {figure(options['sharpening'])}, epsilon = "
            f"{figure(options['epsilon'])}, seed {report.provenance.seed}",
        ),
        (
            "Views",
            "; ".join(
                f"{view}: {VIEW_MEANS[view]}, {count(n, 'checkpoint')} measured"
                for view, n in zip(VIEWS, own, strict=True)
            ),
        ),
    ]


def _measured_views(report: Report) -> dict[View, set[int | str]]:
    return {
        view: {
            m.checkpoint
            for m in report.measurements
            if m.view == view and m.name == "gini_corrected" and m.value is not None
        }
        for view in VIEWS
    }


def _findings(report: Report) -> Section:
    """Worst first; alike at several checkpoints, in the words of the last."""
    blocks: list[Block] = []
    for level in _LEVELS:
        alike: dict[tuple[str, str, str], list[Finding]] = {}
        for f in report.findings:
            if f.level == level and f.caused_by is None:
                alike.setdefault((f.id, f.action, f.signal or ""), []).append(f)
        blocks += [_found(same) for same in alike.values()]
    if not any(f.level != "note" for f in report.findings) and last_verdicts(report):
        blocks.insert(0, Paragraph(text=no_fault(report)))
    return Section(id="findings", title="What was found", blocks=tuple(blocks))


def _found(same: Sequence[Finding]) -> Found:
    last = same[-1]
    names = list(dict.fromkeys(f.checkpoint for f in same if f.checkpoint is not None))
    where = ", ".join(filter(None, (last.signal, places(names))))
    differs = len({f.message for f in same}) > 1
    return Found(
        id=last.id,
        level=last.level,
        where=where,
        message=last.message + (f" (figures of {at(names[-1])})" if differs and names else ""),
        follows=tuple(dict.fromkeys(c for f in same for c in f.cause_of)),
        action=last.action,
        evidence=tuple(_evidence(last.evidence)),
        source=last.source,
    )


def _evidence(values: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of what shows a finding, by its path."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from _evidence(value, f"{name} {key}".strip())
    elif isinstance(values, list | tuple):
        yield name, ", ".join(_plain(v) for v in values)
    else:
        yield name, _plain(values)


def _plain(value: object) -> str:
    if value is None or isinstance(value, float):
        return figure(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _verdicts(report: Report, view: View) -> Section:
    """The regimes of a view: at its last checkpoint, and how they came about."""
    found = last_verdicts(report, view)
    blocks: list[Block] = [Paragraph(text=f"{view}: {VIEW_MEANS[view]}.", small=True)]
    if not found:
        reason = next((m.reason for m in report.measurements if m.view == view and m.reason), None)
        blocks.append(Paragraph(text=f"not measured: {reason or 'no checkpoint'}"))
    else:
        blocks.append(
            Table(
                title=f"Verdicts at {at(found[0].checkpoint)}, {view}",
                head=("signal", "regime", "completions so, 95%", "prompts", "because"),
                rows=tuple(
                    (v.signal, v.regime, share(v), f"{v.n_clusters:,}", because(v)) for v in found
                ),
                right=frozenset({3}),
            )
        )
        way = over_steps([*earlier_verdicts(report, view), *found])
        if way:
            blocks.append(
                Table(
                    title=f"Regimes over the checkpoints, {view}",
                    head=("signal", "regime"),
                    rows=tuple(way),
                )
            )
        blocks += [Paragraph(text=text, small=True) for text in remarks(report, view)]
    return Section(id=f"verdicts-{view}", title=f"Verdicts, {view}", blocks=tuple(blocks))


def _picture_sections(pictures: Sequence[Picture]) -> Iterator[Section]:
    for heading in dict.fromkeys(p.section for p in pictures):
        blocks = tuple(p for p in pictures if p.section == heading)
        slug = "".join(c if c.isalnum() else "-" for c in heading.lower()).strip("-")
        yield Section(id=slug, title=heading, blocks=blocks)


def _figures(report: Report) -> Section:
    """Concentration at the configured sharpening, and means, at every checkpoint with limits."""
    sharpening = report.provenance.options["sharpening"]
    blocks = []
    for view in VIEWS:
        found = {
            (m.signal, m.checkpoint, m.name): m
            for m in report.measurements
            if m.view == view and m.sharpening in (None, sharpening) and m.against is None
        }
        names = list(dict.fromkeys(c for _, c, name in found if name == "gini_corrected"))
        rows = []
        for signal in SIGNAL_NAMES:
            for checkpoint in names:
                cells = [found.get((signal, checkpoint, name)) for name, _ in _FIGURES]
                told = (with_limits(m.value, m.low, m.high, m.reason) if m else "" for m in cells)
                prompts = f"{cells[0].n_clusters:,}" if cells[0] else ""
                rows.append((signal, at(checkpoint), *told, prompts))
        blocks.append(
            Table(
                title=f"How concentrated each credit is, {view}",
                head=("signal", "checkpoint", *(words for _, words in _FIGURES), "prompts"),
                rows=tuple(rows),
                caption=f"Means over prompts, with 95% limits over prompts, at s = "
                f"{figure(sharpening)}. Means of surprisal, the entropies, divergence and KL are "
                "in nats, the residual in units of the hidden state, the relative one without.",
                right=frozenset(range(2, 3 + len(_FIGURES))),
            )
        )
    return Section(id="figures", title="Figures", blocks=tuple(blocks), folded=True)


def _fidelity(report: Report) -> Section:
    """Whether the replay is the run, checkpoint by checkpoint."""
    rows = tuple(
        (
            f.checkpoint,
            f.status,
            "; ".join(f"{name} {figure(value)}" for name, value in f.figures.items()),
            f.reason or "",
        )
        for f in report.replay_fidelity
    )
    table = Table(
        title="The replay against what the run logged",
        head=("checkpoint", "status", "figures", "why"),
        rows=rows,
    )
    blocks: tuple[Block, ...] = (table,) if rows else (Paragraph(text="Nothing to compare with."),)
    return Section(id="fidelity", title="Is the replay the run?", blocks=blocks, folded=True)


def _skipped(report: Report, absent: Sequence[tuple[str, str]]) -> Section:
    """What could not be asked, and which pictures could not be drawn."""
    rows: dict[tuple[str, str], list[str]] = {}
    for s in report.skipped:
        where = [at(s.checkpoint)] if s.checkpoint is not None else []
        where += [w for w in (s.view, s.signal) if w]
        rows.setdefault((s.id, s.reason), []).append(", ".join(where))
    table = Table(
        title="What could not be asked, and what it needs",
        head=("what", "why not", "where"),
        rows=tuple((of, why, _some(places)) for (of, why), places in rows.items()),
    )
    blocks: list[Block] = [table] if rows else [Paragraph(text="Everything was judged.")]
    if absent:
        pictures = "Pictures that there are none of"
        blocks.append(Table(title=pictures, head=("of what", "why"), rows=tuple(absent)))
    return Section(id="not-judged", title="Not judged", blocks=tuple(blocks), folded=True)


def _some(places: Sequence[str], most: int = 6) -> str:
    """The first places, and how many more."""
    told = [p for p in dict.fromkeys(places) if p]
    more = f"; {len(told) - most} more, in report.json" if len(told) > most else ""
    return "; ".join(told[:most]) + more
