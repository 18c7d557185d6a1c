"""What share of the tokens holds what share of the credit."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from arca_diag.report.charts.canvas import Canvas, Panel
from arca_diag.report.charts.ink import FAINT, INK, SIGNS
from arca_diag.report.charts.scene import Credit, Last, Scene, left_out, places, views
from arca_diag.report.numbers import percent, percent_with_limits
from arca_diag.report.picture import Picture
from arca_diag.signals import SIGNAL_NAMES

#: Shares of tokens at which the curve is drawn.
SHARES = np.linspace(0, 1, 51)


def lorenz(credit: Credit) -> Float[np.ndarray, " share"]:
    """Share of credit of the most credited tokens, at `SHARES`.

    Mean over prompts of the mean over completions; straight lines between whole tokens. NaN where
    no completion has credit on two tokens.
    """
    layout = credit.layout
    length = layout.n_tokens
    order = np.lexsort((-credit.weights, layout.completion))
    held = np.concatenate([[0.0], np.cumsum(credit.weights[order])])
    starts = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(int)
    at_least_two = length > 1
    if not at_least_two.any():
        return np.full(len(SHARES), np.nan)
    starts, length = starts[at_least_two, None], length[at_least_two, None]
    place = SHARES * length
    whole = np.minimum(place.astype(int), length - 1)
    low = held[starts + whole]
    curves = low + (place - whole) * (held[starts + whole + 1] - low) - held[starts]
    prompt = layout.prompt[at_least_two]
    part = 1.0 / np.bincount(prompt)[prompt] / len(np.unique(prompt))
    return np.asarray(part @ curves)


def draw_lorenz(scene: Scene) -> Iterator[Picture]:
    """`lorenz`: a panel a view, and how few tokens hold 90% of the credit."""
    curves = {
        last.view: {signal: lorenz(last.credit(signal)) for signal in SIGNAL_NAMES}
        for last in scene.lasts
    }
    lasts = [
        one for one in scene.lasts if not all(np.isnan(c).all() for c in curves[one.view].values())
    ]
    if not lasts:
        return
    canvas = Canvas(3.3)
    for column, last in enumerate(lasts):
        left = 0.48 + 2.45 * column
        canvas.write(left, 0.05, last.heading, weight="bold")
        panel = Panel(canvas, left, 0.3, 2.05, 2.5)
        panel.frame()
        panel.line([0, 1], [0, 1], color=INK, alpha=FAINT, lw=0.8, ls=":")
        for place, (signal, curve) in enumerate(curves[last.view].items()):
            panel.line(
                SHARES,
                curve,
                f"{last.view} {signal}",
                color=SIGNS[signal].colour,
                marker=SIGNS[signal].marker,
                markevery=(2 + place, 12),
            )
        for ticks in (panel.ticks_x, panel.ticks_y):
            ticks((0, 0.25, 0.5, 0.75, 1), ("0", ".25", ".5", ".75", "1"))
        panel.named("share of tokens, most credited first")
        if column == 0:
            panel.named_left("share of credit")
    _table(canvas, scene, lasts)
    title = f"What share of tokens holds what share of credit, {views(lasts)}"
    alt = _alt(scene, lasts)
    yield Picture(
        id="lorenz",
        section="Concentration",
        title=title,
        view=views(lasts),
        caption=(
            f"Lorenz curves of the credit, most credited tokens first, at sharpening "
            f"{scene.sharpening:g}: means over prompts of the means over completions. "
            f"{places(lasts)}. The dotted diagonal is even credit; the nearer to the upper left "
            "corner, the fewer tokens hold the credit. Beside it, the share of tokens that hold "
            "90% of it with 95% limits over prompts, of the same completions."
            f"{left_out(lasts)}"
        ),
        alt=alt,
        svg=canvas.svg(title, alt),
    )


def _table(canvas: Canvas, scene: Scene, lasts: list[Last]) -> None:
    """Signals as a key, each with how few tokens hold 90%."""
    left = 0.25 + 2.45 * len(lasts)
    width = (8.95 - left - 1.45) / len(lasts)
    canvas.write(left + 0.05, 0.2, "tokens that hold 90% of credit")
    for column, last in enumerate(lasts):
        canvas.write(left + 1.5 + width * (column + 0.5), 0.42, last.view, ha="center")
    for row, signal in enumerate(SIGNAL_NAMES):
        top = 0.78 + 0.3 * row
        canvas.sign(left + 0.1, top, signal)
        for column, last in enumerate(lasts):
            m = scene.figure("token_share_90", last.view, last.label, signal)
            canvas.write(
                left + 1.5 + width * (column + 0.5),
                top + 0.045,
                percent_with_limits(m.value, m.low, m.high) if m else percent(None),
                ha="center",
                va="baseline",
            )


def _alt(scene: Scene, lasts: list[Last]) -> str:
    told = []
    for last in lasts:
        found = {s: scene.figure("token_share_90", last.view, last.label, s) for s in SIGNAL_NAMES}
        shares = [f"{s} {percent(m.value)}" for s, m in found.items() if m and m.value is not None]
        told.append(f"{last.where}: {', '.join(shares)}")
    return f"Share of tokens that hold 90% of the credit, {'; '.join(told)}."
