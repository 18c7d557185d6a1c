"""Which token types hold the most credit, and how many times their share of the tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from arca_diag.diagnostics.agnosticism import shares
from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean
from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.classes import short
from arca_diag.report.charts.ink import FAINT, INK, SEQUENTIAL, on
from arca_diag.report.charts.scene import Last, Scene, left_out, places
from arca_diag.report.charts.text import shown
from arca_diag.report.numbers import percent
from arca_diag.report.picture import Picture
from arca_diag.signals import SIGNAL_NAMES

#: Types that are shown.
SHOWN = 14
_LEFT, _TOP, _CELL, _ROW = 1.62, 0.62, 1.05, 0.34


@dataclass(frozen=True, kw_only=True)
class TypeCredit:
    """One type under one signal.

    Attributes:
        share: Of a completion's credit, mean over prompts, with limits.
        lift: That over its share of the tokens, of the completions that have one.
    """

    share: Estimate
    lift: Estimate


def most_credited(last: Last) -> list[tuple[int, str]]:
    """Id and text of the types that hold the most credit, mean over the signals that have any."""
    tokens = last.tokens
    ids, codes = np.unique(tokens["token_id"].to_numpy(np.int64), return_inverse=True)
    held, n_signals = np.zeros(len(ids)), 0
    for signal in SIGNAL_NAMES:
        credit = last.credit(signal)
        if len(credit.weights):
            part = credit.part[credit.layout.completion]
            held += np.bincount(
                codes[credit.known], weights=credit.weights * part, minlength=len(ids)
            )
            n_signals += 1
    top = np.argsort(-held, kind="stable")[:SHOWN]
    first = np.unique(codes, return_index=True)[1]
    texts = tokens["token"].iloc[first[top]]
    return [(int(ids[i]), str(text)) for i, text in zip(top, texts, strict=True) if held[i] > 0]


def type_credit(last: Last, signal: str, ids: list[int]) -> list[TypeCredit | None]:
    """What each of these types holds; None under a signal without credit."""
    credit = last.credit(signal)
    layout = credit.layout
    if not len(credit.weights):
        return [None] * len(ids)
    found = last.tokens["token_id"].to_numpy(np.int64)[credit.known]
    order = np.argsort(ids)
    place = np.searchsorted(np.asarray(ids)[order], found).clip(max=len(ids) - 1)
    labels = np.where(np.asarray(ids)[order][place] == found, order[place], len(ids))
    held = shares(credit.weights, labels, len(ids) + 1, layout)
    even = shares(1.0 / layout.n_tokens[layout.completion], labels, len(ids) + 1, layout)
    lift = np.divide(held, even, out=np.full(held.shape, np.nan), where=even > 0)
    return [
        TypeCredit(
            share=cluster_mean(held[:, one], layout.prompt),
            lift=cluster_mean(lift[:, one], layout.prompt),
        )
        for one in range(len(ids))
    ]


def draw_types(scene: Scene) -> Iterator[Picture]:
    """`types`: of the last checkpoint on its own completions, where it has some and may be read."""
    for last in scene.lasts[:1]:
        tokens = last.tokens
        if tokens.empty or tokens["token"].isna().any() or tokens["token_id"].isna().any():
            return
        types = most_credited(last)
        if types:
            yield _picture(scene, last, types)


def _picture(scene: Scene, last: Last, types: list[tuple[int, str]]) -> Picture:
    found = {s: type_credit(last, s, [one for one, _ in types]) for s in SIGNAL_NAMES}
    n = len(SIGNAL_NAMES)
    canvas = Canvas(_TOP + len(types) * _ROW + 0.1)
    canvas.write(0.05, 0.05, last.heading, weight="bold")
    panel = Panel(canvas, _LEFT, _TOP, n * _CELL, len(types) * _ROW, x=(0, n), y=(len(types), 0))
    for column, signal in enumerate(SIGNAL_NAMES):
        name = signal.replace("_", "_\n") if len(signal) > 10 else signal
        panel.write(column + 0.5, 0, name, dy=4, ha="center", va="bottom", linespacing=1.0)
        for row, one in enumerate(found[signal]):
            _cell(panel, row, column, one)
    for row, (_, text) in enumerate(types):
        name = shown(blanks_seen(text))
        panel.write(0, row + 0.5, name, dx=-5, ha="right", family="monospace", size=8.5)
    title = f"The most credited token types, {last.view}"
    alt = _alt(last, types, found)
    return Picture(
        id="types",
        section="Where the credit goes",
        title=title,
        view=last.view,
        caption=(
            f"The {len(types)} token types that hold the most credit, mean over the signals, as "
            "the tokenizer writes them (\u0120, \u2581 and \u2423 mostly stand for a space, \u010a "
            f"ends a line) at sharpening {scene.sharpening:g}. {places([last])}. In "
            "each cell the share of a completion's credit that the type holds, the lift: how many "
            "times its share of the tokens, of the completions that have one; and below, 95% "
            "limits of the share over prompts, cut at 0 and 100%. The brighter a cell, "
            "the larger the share. What cannot "
            f"be seen is escaped, and long tokens are cut.{left_out([last])}"
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _cell(panel: Panel, row: int, column: int, one: TypeCredit | None) -> None:
    box = (column + 0.02, column + 0.98, row + 0.04, row + 0.96)
    if one is None:
        panel.boxes(*box, fc="none", ec=INK, lw=0.6, alpha=FAINT)
        panel.write(column + 0.5, row + 0.5, "n/a", ha="center", alpha=0.7)
        return
    shade = SEQUENTIAL(float(np.clip(one.share.value, 0, 1)) ** 0.5)
    panel.boxes(*box, f"share {row} {column}", fc=shade)
    how: dict[str, Any] = {"ha": "center", "color": on(shade), "size": 8.5}
    share = one.share
    known = not np.isnan(share.low)
    lift = "n/a" if np.isnan(one.lift.value) else short(one.lift.value)
    above = f"{percent(share.value)} \N{MULTIPLICATION SIGN}{lift}"
    panel.write(column + 0.5, row + (0.29 if known else 0.5), above, **how)
    if known:
        panel.write(column + 0.5, row + 0.73, limit_words(share.low, share.high), **how)


def blanks_seen(text: str) -> str:
    """A token with a sign for its spaces where it is made of nothing else."""
    return text if text.strip(" ") else text.replace(" ", "\N{OPEN BOX}")


def limit_words(low: float, high: float) -> str:
    """Limits of a share in percent; no share lies beyond 0 and 100: `(0 to 12)`."""
    low, high = (100 * float(np.clip(end, 0, 1)) for end in (low, high))
    return f"({low:.0f} to {high:.0f})"


def _alt(
    last: Last, types: list[tuple[int, str]], found: dict[str, list[TypeCredit | None]]
) -> str:
    told = []
    for signal, ones in found.items():
        known = [(one.share.value, -row) for row, one in enumerate(ones) if one is not None]
        if known:
            value, row = max(known)
            told.append(f"{signal} {shown(blanks_seen(types[-row][1]))} with {percent(value)}")
    return f"The token type that holds most of the credit, {last.where}: {', '.join(told)}."
