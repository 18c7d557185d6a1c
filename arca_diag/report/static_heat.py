"""The token heat-map on paper: a few completions, two signals, the last checkpoint, and no moving.

Colour is not the only sign: the line below a token is the thicker the stronger its signal is, and
the strongest tokens are named with their figures.
"""

from collections.abc import Callable, Sequence
from typing import Any

from arca_diag.report.heatmap import Case, HeatMap, Row
from arca_diag.report.numbers import figure
from arca_diag.report.typeset import Typeset, typeset_parts
from arca_diag.report.words import at, count

#: What is shown: signals, the ends of each in how concentrated it is, and tokens of each.
SIGNALS = ("surprisal", "residual")
MOST_TOKENS = 240
_STRONGEST = 3
STEPS = 10

Set = Callable[[str], Typeset]


def static_heat(heat: HeatMap, set_text: Set, drawable: frozenset[int]) -> dict[str, Any]:
    """A section of the PDF's data.

    Args:
        heat: What there is to show.
        set_text: Sets a text.
        drawable: Code points that the fonts have.
    """
    name, step = heat.checkpoints[-1], heat.steps[-1]
    cases = _ends(heat.cases)
    where = at(name if step is None else step)
    more = len(heat.cases) - len(cases)
    about = (
        f"The completions whose credit from {' and '.join(SIGNALS)} is the most and the least "
        f"concentrated at {where}, of those that the page shows"
        + (f" ({more:,} more there)" if more else "")
        + ". The stronger the signal at a token, the darker its ground and the thicker the line "
        "below it; a token that does not count is struck through. The scale is the same for all; "
        "what exceeds its end has the colour of the end."
    )
    if heat.redacted:
        about += " The result holds no text: each token is shown by its class."
    return {
        "title": set_text("Tokens"),
        "blocks": [
            {
                "kind": "tokens",
                "about": {"text": set_text(about), "small": True},
                "legends": [_legend(heat, signal, set_text) for signal in SIGNALS],
                "cases": [_case(heat, case, name, set_text, drawable) for case in cases],
            }
        ],
    }


def _ends(cases: Sequence[Case]) -> list[Case]:
    """The most and the least concentrated case of each signal, each once; else the first ones."""
    wanted = [
        f"{end} concentrated {s.replace('_', ' ')}" for s in SIGNALS for end in ("most", "least")
    ]
    found = {c.rollout_id: c for why in wanted for c in cases if why in c.why.split("; ")}
    return [*found.values()] or [*cases[: len(wanted)]]


def _legend(heat: HeatMap, signal: str, set_text: Set) -> dict[str, Any]:
    low, high = heat.scales[signal]
    unit = heat.units[signal]
    return {
        "signal": set_text(signal.replace("_", " ")),
        "low": set_text(figure(low)),
        "high": set_text(f"{figure(high)} and more, in {unit}"),
    }


def _case(
    heat: HeatMap, case: Case, checkpoint: str, set_text: Set, drawable: frozenset[int]
) -> dict[str, Any]:
    facts = [
        f"group {case.group}",
        *([f"sampled at step {case.step}"] if case.step is not None else []),
        f"reward {figure(case.reward)}",
        f"advantage {figure(case.advantage)}",
        *([f"finished by {case.finish_reason}"] if case.finish_reason else []),
        count(case.n_counted, "counted token"),
        "fixed set" if case.fixed else "on-policy",
    ]
    return {
        "title": set_text(f"{case.why}: {case.rollout_id}"),
        "about": set_text("; ".join(facts)),
        "prompt": set_text(case.prompt or ""),
        "rows": [
            _row(
                heat,
                case,
                signal,
                case.values.get(checkpoint, {}).get(signal, ()),
                set_text,
                drawable,
            )
            for signal in SIGNALS
        ],
    }


def _row(
    heat: HeatMap, case: Case, signal: str, values: Row, set_text: Set, drawable: frozenset[int]
) -> dict[str, Any]:
    high = heat.scales[signal][1]
    shown = case.tokens[:MOST_TOKENS]
    padded = [*values, *[None] * len(shown)]
    left_out = case.n_left_out + len(case.tokens) - len(shown)
    return {
        "signal": set_text(signal.replace("_", " ")),
        "tokens": [
            [
                typeset_parts(token.parts, drawable),
                _level(value, high) if token.counted else None,
                token.breaks,
            ]
            for token, value in zip(shown, padded, strict=False)
        ],
        "left_out": set_text(f" … {count(left_out, 'token')} more, not shown" if left_out else ""),
        "strongest": set_text(_strongest(case, values, heat.units[signal])),
    }


def _level(value: float | None, high: float) -> int | None:
    """How strong the colour is, from 0 to 9; None where the signal is undefined."""
    if value is None:
        return None
    return max(0, min(STEPS - 1, int(value / high * STEPS))) if high > 0 else 0


def _strongest(case: Case, values: Row, unit: str) -> str:
    """The figures of the strongest tokens, in words."""
    found = [
        (-value, token)
        for token, value in zip(case.tokens, values, strict=False)
        if value is not None and token.counted
    ]
    if not found:
        return "not measured"
    best = sorted(found, key=lambda one: (one[0], one[1].position))[:_STRONGEST]
    told = (f"{token.text} (position {token.position}) {figure(-value)}" for value, token in best)
    return f"Strongest, in {unit}: {'; '.join(told)}"
