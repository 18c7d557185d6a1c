"""What can make a signal's credit look as it does: each cause with its own evidence and cut.

Concentration alone is no fault: a signal may rightly sit on the one token that matters. So every
regime is asked what made it so. A rule reads figures that are measured already, with intervals
over prompts, and says how surely the figure is past its cut; `attribution.py` asks them all.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from arca_diag.diagnostics.multiplicity import one_sided_p
from arca_diag.results import Measurement, Verdict
from arca_diag.thresholds import Cuts
from arca_diag.trajectory import REFERENCE_SIGNALS
from arca_diag.verdict import INCONCLUSIVE, NO_SIGNAL, UNDEFINED

#: Signals that are zero where the adapter does nothing.
ADAPTER_SIGNALS = ("residual", "relative_residual", "divergence", "kl_exact")
#: Chance of a wrong call that a cause may have, one-sided: that of a limit of a 95% interval.
ALPHA = 0.025
#: The same where a skewed figure has to be below its cut. Simulated with the truth on the cut
#: (`make bench-coverage`), .025 is passed in up to .045 of runs, and this in up to .034.
ALPHA_SKEWED = 0.015
#: What credit can go by whatever the task.
LABELS = ("type", "class", "position")

_SPARSE, _UNIFORM = ("sparse", "leaning-sparse"), ("uniform", "leaning-uniform")
#: Regime -> those of its side, for the sides that are degenerate.
_SIDES = {regime: side for side in (_SPARSE, _UNIFORM) for regime in side}
_OTHER_BATCH, _FLOAT32, _FLOAT64 = "other-batch", "float32", "float64"

Key = tuple[int | str, str, str, str | None, float | None, str | None]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One signal at one checkpoint in one view, with every figure of the report at hand.

    Attributes:
        verdict: Its regime at the sharpening that is asked about.
        plain: The same at sharpening 1.
        residual: The residual's verdict at the same place.
        figures: Every measurement, by what it is of.
        cuts: Those in force.
    """

    verdict: Verdict
    plain: Verdict
    residual: Verdict | None
    figures: Mapping[Key, Measurement]
    cuts: Cuts

    def figure(
        self,
        name: str,
        *,
        signal: str | None = "",
        sharpening: float | None = None,
        against: str | None = None,
    ) -> Measurement | None:
        """A figure of this place, of this case's own signal unless another is named."""
        of = self.verdict.signal if signal == "" else signal
        v = self.verdict
        return self.figures.get((v.checkpoint, v.view, name, of, sharpening, against))

    def noise(self, signal: str) -> Measurement | None:
        """The largest noise of a signal here, of all replicas that were made."""
        found = [
            figure
            for against in (_FLOAT32, _FLOAT64, _OTHER_BATCH)
            if (figure := self.figure("noise_share", signal=signal, against=against))
            and figure.value is not None
        ]
        return max(found, key=_reach, default=None)

    def surely_quiet(self, noise: Measurement) -> bool:
        """Whether rounding is surely below its cut; of one prompt the value has to tell."""
        value, cut = noise.value, self.cuts["noise-share"]
        if value is None or noise.low is None or noise.high is None:
            return value is not None and value < cut
        p = one_sided_p(value, noise.low, noise.high, noise.n_clusters, cut, "below")
        return p <= ALPHA_SKEWED

    def hidden_by_precision(self) -> bool:
        """Whether the residual is zero in the replay's precision and is not in float32."""
        figure = self.figure("noise_share", signal="residual", against=_FLOAT32)
        return figure is not None and figure.value is not None


@dataclass(frozen=True, kw_only=True)
class Test:
    """A cause that was asked for: the figure that decides, and the p-value that it is not so."""

    evidence: dict[str, Any]
    p: float
    alpha: float = ALPHA
    figure: Measurement | None = None  # several signals can be asked about one


def _reach(figure: Measurement) -> float:
    """How large a figure may be: its upper limit, where there is one."""
    return (figure.value or 0.0) if figure.high is None else figure.high


def adapter_inert(case: Case) -> Test | str | None:
    """The adapter's own signals are exactly zero, or nothing but rounding.

    Exact zeros are facts and need no minimum. The noise of a residual that is all rounding is as
    large as itself; that is asked in the precision that is taken for the truth, float32 or above.
    """
    if case.verdict.signal not in ADAPTER_SIGNALS or case.residual is None:
        return None
    if case.hidden_by_precision():
        return None
    if case.residual.regime == NO_SIGNAL:
        return Test(evidence={"residual_zero_tokens": case.residual.n_tokens}, p=0.0)
    if case.figure("noise_share", signal="residual", against=_FLOAT32) is not None:
        return None
    return _past(case, case.noise("residual"), "inert-noise", "residual_noise_share")


def numeric_noise(case: Case) -> Test | str | None:
    """Rounding alone is a tenth of the signal or more: no figure of it says anything."""
    worst = case.noise(case.verdict.signal)
    if worst is None:
        figure = case.figure("noise_share", against=_OTHER_BATCH)
        return "no noise was measured" if figure is None else figure.reason
    return _past(case, worst, "noise-share", f"noise_share_{worst.against}")


def completions_short(case: Case) -> Test | str | None:
    """Most completions are too short for any cut to mean something."""
    return _past(case, case.figure("short_share", signal=None), "short-share", "short_share")


def credit_floor(case: Case) -> Test | str | None:
    """Most of the credit is epsilon, which is the same for every token."""
    return _past(case, case.figure("floor_share"), "floor-share", "floor_share")


def sharpening_only(case: Case) -> Test | str | None:
    """The regime is the power's: at s = 1 it surely is another."""
    verdict, plain = case.verdict, case.plain
    settled = {INCONCLUSIVE, UNDEFINED}.isdisjoint((verdict.regime, plain.regime))
    if verdict.sharpening == 1 or not settled or verdict.regime not in _SIDES:
        return None
    # `leaning-sparse` may be `sparse` that is not settled: on one side, the shares have to tell.
    had = plain.shares.get(verdict.regime)
    surely_not = (
        verdict.regime in ("sparse", "uniform")
        and had is not None
        and had.high is not None
        and had.high < case.cuts["share-majority"]
    )
    if plain.regime in _SIDES[verdict.regime] and not surely_not:
        return None
    return Test(
        evidence={
            "sharpening": verdict.sharpening,
            "regime": verdict.regime,
            "regime_at_1": plain.regime,
        },
        p=0.0,  # both regimes are calls of their own, with intervals
    )


def credit_structural(case: Case) -> Test | str | None:
    """The level is what the signal's construction gives: entropy reduction is 0 at every rise.

    It explains concentration, where there is some or may be. That the level is not above the
    construction's is enough: what the same entropies in random order would exceed, construction
    gives all the more. Credit that is surely spread out has nothing to explain by it, and would
    always pass.
    """
    asked = (*_SPARSE, INCONCLUSIVE)
    if case.verdict.signal != "entropy_reduction" or case.verdict.regime not in asked:
        return None
    figure = case.figure("structural_excess", sharpening=case.verdict.sharpening)
    return _past(case, figure, "structural-excess", "structural_excess")


def credit_inherited(case: Case) -> Test | str | None:
    """The profile is the base's: the same weights come out under the reference.

    Asked only where the policy has moved: an adapter that moves nothing inherits everything.
    """
    if case.verdict.signal not in REFERENCE_SIGNALS:
        return None
    moved = case.noise("kl_exact")
    if moved is None or moved.high is None:
        return "it is not known whether kl_exact is above its noise floor"
    if moved.n_clusters < case.cuts["clusters-least"] or not case.surely_quiet(moved):
        return "kl_exact is not surely above its noise floor: the policy may not have moved"
    figure = case.figure("inherited_tv", sharpening=case.verdict.sharpening)
    return _past(case, figure, "inherited-tv", "inherited_tv", alpha=ALPHA_SKEWED)


def credit_task_agnostic(case: Case) -> Test | str | None:
    """What kind of token it is, or where it stands, gives the credit whatever the task.

    Of types, classes and positions the one that explains most decides; its p-value is held for
    the three that were looked at.
    """
    sharpening = case.verdict.sharpening
    tests: list[Test] = []
    reason: str | None = None
    for by in LABELS:
        figure = case.figure(f"{by}_explained", sharpening=sharpening)
        null = case.figure(f"{by}_explained_null", sharpening=sharpening)
        found = _past(case, figure, "agnostic-share", f"{by}_explained", least="agnostic-prompts")
        if isinstance(found, str):
            reason = found
        if not isinstance(found, Test) or null is None or null.high is None:
            continue
        found.evidence["by"] = by
        found.evidence["null_high"] = null.high
        above = figure is not None and figure.value is not None and figure.value > null.high
        tests.append(found if above else Test(evidence=found.evidence, p=1.0))
    if not tests:
        return reason or (
            f"needs --sharpening {sharpening:g}: what types, classes and places explain is "
            "measured at the configured power alone"
        )
    best = min(tests, key=lambda test: test.p)
    return Test(evidence=best.evidence, p=min(1.0, best.p * len(LABELS)))


#: Root causes first: what holds earlier makes what comes later its consequence.
CAUSES: tuple[tuple[str, Callable[[Case], Test | str | None]], ...] = (
    ("adapter-inert", adapter_inert),
    ("completions-short", completions_short),
    ("numeric-noise", numeric_noise),
    ("credit-floor", credit_floor),
    ("sharpening-only", sharpening_only),
    ("credit-structural", credit_structural),
    ("credit-inherited", credit_inherited),
    ("credit-task-agnostic", credit_task_agnostic),
)


def _past(
    case: Case,
    figure: Measurement | None,
    cut: str,
    name: str,
    *,
    alpha: float = ALPHA,
    least: str = "clusters-least",
) -> Test | str | None:
    """Whether a figure is past its cut: a test, or why it cannot be made.

    Args:
        case: Where it is asked.
        figure: The one that decides.
        cut: Id of the cut.
        name: Of the figure in the evidence.
        alpha: Largest p-value of a call.
        least: Id of the cut on prompts, where the cause needs more than any figure does.
    """
    if figure is None:
        return None
    if figure.value is None or figure.low is None or figure.high is None:
        return figure.reason or "one prompt has no interval"
    prompts = math.ceil(max(case.cuts["clusters-least"], case.cuts[least]))
    if figure.n_clusters < prompts:
        return f"{figure.n_clusters} prompts, and this is not judged below {prompts}"
    p = one_sided_p(
        figure.value,
        figure.low,
        figure.high,
        figure.n_clusters,
        case.cuts[cut],
        case.cuts.side(cut),
    )
    return Test(
        evidence={
            name: figure.value,
            "low": figure.low,
            "high": figure.high,
            "n_clusters": figure.n_clusters,
            "n_completions": figure.n_completions,
            "cut": case.cuts[cut],
        },
        p=p,
        alpha=alpha,
        figure=figure,
    )
