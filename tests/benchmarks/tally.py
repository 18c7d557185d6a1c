"""From judged cases to tables and bars."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from arca_diag.causes import ALPHA, ALPHA_SKEWED
from arca_diag.diagnostics.multiplicity import one_sided_p
from arca_diag.thresholds import DEFAULT
from tests.benchmarks.truth import BORDERLINE, CUT_OF

NONE = "none"
#: Bars, at 32 prompts of 8 completions of about 40 tokens.
RECALL, RECALL_LOW = 0.95, 0.90
ALARMS, ALARMS_HIGH = 0.05, 0.08
#: A confusion that is told of: this share of the cases of a cause.
_OFTEN = 0.05
#: A dose curve may fall by this much by chance.
_DIP = 0.1
_GRID = np.linspace(0.5, 1.5, 41)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One signal of one drawn run, as it is and as it was said to be.

    Attributes:
        pool: Name of its population.
        curve: Cause of the dose curve that the population is a point of; None if it is of none.
        prompts: Of the run.
        draw: Number of the run; thresholds are fitted on even ones.
        place: View, signal and sharpening.
        true_root: Root cause, `none` without one, None where it is borderline.
        holds: Cause -> whether it holds in the population; None near its cut.
        true_figures: Cause -> the population's figure.
        true_regime: None where it is borderline.
        said_causes: Root cause first.
        said_regime: The word.
        figures: Cause -> (value, low, high, prompts), as measured.
    """

    pool: str
    curve: str | None
    prompts: int
    draw: int
    place: tuple[str, str, float]
    true_root: str | None
    holds: dict[str, bool | None]
    true_figures: dict[str, float]
    true_regime: str | None
    said_causes: tuple[str, ...]
    said_regime: str
    figures: dict[str, tuple[float, float, float, int]]

    @property
    def said_root(self) -> str:
        """The root cause that is named; `none` without one."""
        return self.said_causes[0] if self.said_causes else NONE

    @property
    def reported(self) -> bool:
        """Whether it counts for the bars."""
        full = self.curve is None and self.prompts == 32
        return full and self.draw % 2 == 1 and self.true_root is not None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Something that must hold."""

    name: str
    met: bool
    found: str


def limits(hits: int, of: int) -> tuple[float, float]:
    """Clopper-Pearson's 95% limits of a share."""
    if not of:
        return 0.0, 1.0
    found = stats.binomtest(hits, of).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def rate(hits: Iterable[bool]) -> dict[str, Any]:
    """A share with its limits and count; no share of nothing."""
    seen = [bool(hit) for hit in hits]
    low, high = limits(sum(seen), len(seen))
    share = sum(seen) / len(seen) if seen else None
    return {"share": share, "low": low, "high": high, "n": len(seen)}


def said_rate(found: dict[str, Any]) -> str:
    """A share as text."""
    if found["share"] is None:
        return "-"
    return f"{found['share']:.3f} [{found['low']:.3f}, {found['high']:.3f}] of {found['n']}"


def by_cause(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Recall and precision of every root cause, and how often the regime stays open."""
    used = [c for c in cases if c.reported]
    return {
        cause: {
            "recall": rate(c.said_root == cause for c in used if c.true_root == cause),
            "precision": rate(c.true_root == cause for c in used if c.said_root == cause),
            "inconclusive": rate(
                c.said_regime == "inconclusive" for c in used if c.true_root == cause
            ),
            "runs": len({(c.pool, c.draw) for c in used if c.true_root == cause}),
        }
        for cause in (*CUT_OF, NONE)
    }


def by_regime(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """How often a regime that is so is named, and is open, where rounding does not forbid one."""
    used = [
        c
        for c in cases
        if c.reported
        and c.true_regime
        and c.true_root != "numeric-noise"
        and not (c.true_root == "adapter-inert" and c.true_regime != "no-signal")
    ]
    return {
        regime: {
            "recall": rate(c.said_regime == regime for c in used if c.true_regime == regime),
            "precision": rate(c.true_regime == regime for c in used if c.said_regime == regime),
            "inconclusive": rate(
                c.said_regime == "inconclusive" for c in used if c.true_regime == regime
            ),
        }
        for regime in dict.fromkeys(c.true_regime for c in used)
        if regime
    }


def confusion(cases: Iterable[Case]) -> dict[str, dict[str, int]]:
    """True root cause -> named root cause -> cases; borderline truth has a row of its own."""
    found: dict[str, Counter[str]] = {}
    for c in cases:
        if c.curve is None and c.prompts == 32 and c.draw % 2 == 1:
            found.setdefault(c.true_root or "borderline", Counter())[c.said_root] += 1
    order = [*CUT_OF, NONE, "borderline"]
    return {truth: dict(found[truth]) for truth in order if truth in found}


def not_told_apart(cases: Iterable[Case]) -> list[str]:
    """Sentences on what is taken for something else, by population and signal."""
    total: Counter[tuple[str, str, str]] = Counter()
    wrong: Counter[tuple[str, str, str, str]] = Counter()
    for c in cases:
        if c.reported and c.true_root:
            key = (c.true_root, c.pool, c.place[1])
            total[key] += 1
            wrong[(*key, c.said_root)] += c.said_root != c.true_root
    return [
        f"{truth} is taken for {said} in {count / total[truth, pool, signal]:.0%} of "
        f"{total[truth, pool, signal]} cases ({signal} of '{pool}')"
        for (truth, pool, signal, said), count in sorted(wrong.items())
        if count > _OFTEN * total[truth, pool, signal]
    ]


def fits(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Every cut as shipped and as fitted on even draws, both held against odd ones.

    Of the cause alone: others may hold beside it, and no family is held together.
    """
    out = {}
    for cause, cut in CUT_OF.items():
        used = [
            c
            for c in cases
            if c.holds[cause] is not None
            and cause in c.figures
            and cause in c.true_figures
            and c.prompts == 32
        ]
        if not cut or len({c.holds[cause] for c in used}) < 2:
            continue
        shipped = DEFAULT[cut]
        score = _scorer(cause, cut, used)
        grid = sorted(shipped * _GRID, key=lambda value: abs(value - shipped))
        best = max(grid, key=lambda value: round(np.diff(score(value, 0))[0] * -1, 6))
        out[cause] = {"cut": cut, "shipped": shipped, "fitted": float(best)} | {
            name: dict(zip(("recall", "false"), score(value, 1), strict=True))
            for name, value in (("at_shipped", shipped), ("at_fitted", best))
        }
    return out


def _scorer(
    cause: str, cut: str, cases: Sequence[Case]
) -> Callable[[float, int], tuple[float, float]]:
    """For a value and a half of the draws: share of calls where it holds, and where it does not."""
    measured = np.array([c.figures[cause] for c in cases])
    holds = np.array([c.holds[cause] for c in cases], dtype=bool)
    half = np.array([c.draw % 2 for c in cases])
    side = DEFAULT.side(cut)
    alpha = ALPHA_SKEWED if cause == "credit-inherited" else ALPHA

    def score(value: float, which: int) -> tuple[float, float]:
        called = np.array(
            [one_sided_p(v, lo, hi, int(n), value, side) <= alpha for v, lo, hi, n in measured]
        )
        here = half == which
        return float(called[here & holds].mean()), float(called[here & ~holds].mean())

    return score


def curves(cases: Iterable[Case]) -> dict[str, dict[str, Any]]:
    """Cause -> doses, how often it is called at each, and where half of the runs call it."""
    at: dict[str, dict[float, list[bool]]] = {}
    for c in cases:
        if c.curve:
            doses = at.setdefault(c.curve, {})
            doses.setdefault(c.true_figures[c.curve], []).append(c.curve in c.said_causes)
    out = {}
    for cause, doses in at.items():
        cut = CUT_OF[cause]
        assert cut is not None
        above = DEFAULT.side(cut) == "above"
        figures = sorted(doses, reverse=not above)
        called = [float(np.mean(doses[f])) for f in figures]
        past = [f if above else -f for f in figures]
        half = abs(float(np.interp(0.5, np.maximum.accumulate(called), past)))
        end = BORDERLINE[cut][1 if above else 0]
        out[cause] = {
            "doses": figures,
            "called": called,
            "runs": [len(doses[f]) for f in figures],
            "cut": DEFAULT[cut],
            "half": half,
            "monotone": bool(np.all(np.diff(called) >= -_DIP)),
            "crosses_at_cut": called[0] < 0.5 < called[-1]
            and min(DEFAULT[cut], end) <= half <= max(DEFAULT[cut], end),
        }
    return out


def bars(
    causes: dict[str, dict[str, Any]],
    alarms: dict[str, Any],
    doses: dict[str, dict[str, Any]],
) -> list[Bar]:
    """Every bar, and whether it is met."""
    found = []
    for cause, row in causes.items():
        recall = row["recall"]
        if cause == NONE or not recall["n"]:
            continue
        met = recall["share"] >= RECALL and recall["low"] >= RECALL_LOW
        found.append(Bar(name=f"recall of {cause}", met=met, found=said_rate(recall)))
        found.append(
            Bar(name=f"200 cases of {cause}", met=recall["n"] >= 200, found=str(recall["n"]))
        )
    found.append(
        Bar(
            name="false alarms of healthy runs",
            met=bool(alarms["n"]) and alarms["share"] <= ALARMS and alarms["high"] <= ALARMS_HIGH,
            found=said_rate(alarms),
        )
    )
    for cause, row in doses.items():
        met = row["monotone"] and row["crosses_at_cut"]
        said = f"half at {row['half']:.3g}, cut {row['cut']:g}"
        found.append(Bar(name=f"dose curve of {cause}", met=met, found=said))
    return found
