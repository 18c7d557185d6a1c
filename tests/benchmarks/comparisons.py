"""What verdicts compare with a cut, by which estimator, and the laws that each is tried under."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from arca_diag.causes import ALPHA, ALPHA_SKEWED, LABELS
from arca_diag.diagnostics.agnosticism import explained_mean
from arca_diag.diagnostics.uncertainty import (
    Estimate,
    cluster_mean,
    cluster_mean_skewed,
    cluster_share,
    cluster_share_exact,
)
from arca_diag.thresholds import DEFAULT
from tests.benchmarks.laws import (
    Law,
    Tokens,
    beta,
    by_label,
    in_or_out,
    lognormal,
    normal,
    two_kinds,
)

EACH = 8
#: Runs a line, and those of figures that take so long that the whole would take hours.
REPLICATIONS, FEWER = 10_000, 2_000

_NOT_SEEN = "not guarded: no prompt of the rarer kind may be seen"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One comparison of an interval with a cut.

    Attributes:
        name: What is compared.
        cut: Id of the cut.
        side: Where the interval must lie for a call.
        laws: Those that are tried.
        estimate: The package's, from what a law draws.
        alpha: The largest p-value that is a call.
        each: Completions of a prompt.
        least: Prompts that a call needs.
        replications: The most that are made.
    """

    name: str
    cut: str
    side: Literal["above", "below"]
    laws: Sequence[Law]
    estimate: Callable[[Any], Estimate]
    alpha: float = ALPHA
    each: int = EACH
    least: float = DEFAULT["clusters-least"]
    replications: int = REPLICATIONS


def of_values(
    estimate: Callable[[np.ndarray, np.ndarray], Estimate],
) -> Callable[[np.ndarray], Estimate]:
    """An estimator of values, (prompt, completion)."""

    def of(values: np.ndarray) -> Estimate:
        return estimate(values.ravel(), np.repeat(np.arange(len(values)), values.shape[1]))

    return of


def of_tokens(tokens: Tokens) -> Estimate:
    """What a label explains, as the package computes it."""
    return explained_mean(tokens.weights, tokens.labels, tokens.layout)


def figures() -> list[Figure]:
    """Every comparison that decides a regime, a cause, or what replayed groups teach."""
    cut = {c.id: c.value for c in DEFAULT}
    half, short = cut["share-majority"], cut["short-share"]
    mean, skewed, share = map(of_values, (cluster_mean, cluster_mean_skewed, cluster_share))
    # One completion a prompt is replayed again; in real runs its noise over signal has a spread
    # of a fifth to a half of the mean.
    noise = _alone(beta(cut["noise-share"], 0.03) + lognormal(cut["noise-share"], 0.5))
    inert = _alone(beta(cut["inert-noise"], 0.15) + lognormal(cut["inert-noise"], 0.5))
    return [
        Figure(
            name="share of a class",
            cut="share-majority",
            side="above",
            laws=_shares(half, "above"),
            estimate=share,
        ),
        Figure(
            name="share of a class, mixed",
            cut="share-majority",
            side="below",
            laws=_shares(half, "below"),
            estimate=share,
        ),
        Figure(
            name="noise_share",
            cut="noise-share",
            side="above",
            laws=noise,
            estimate=skewed,
            each=1,
        ),
        Figure(
            name="noise_share, quiet",
            cut="noise-share",
            side="below",
            laws=noise,
            estimate=skewed,
            alpha=ALPHA_SKEWED,
            each=1,
        ),
        Figure(
            name="noise_share, inert",
            cut="inert-noise",
            side="above",
            laws=inert,
            estimate=skewed,
            each=1,
        ),
        Figure(
            name="short_share",
            cut="short-share",
            side="above",
            laws=_shares(short, "above"),
            estimate=share,
        ),
        # A prompt has one group, or a few.
        *(
            Figure(
                name=f"groups_without_spread, {each}",
                cut=name,
                side="above",
                laws=in_or_out(cut[name]),
                estimate=of_values(cluster_share_exact),
                each=each,
            )
            for name in ("no-advantage-warn", "no-advantage-error")
            for each in (1, 3)
        ),
        Figure(
            name="floor_share",
            cut="floor-share",
            side="above",
            laws=beta(cut["floor-share"], 0.15) + beta(cut["floor-share"], 0.4),
            estimate=mean,
        ),
        Figure(
            name="structural_excess",
            cut="structural-excess",
            side="below",
            laws=normal(cut["structural-excess"], 0.1),
            estimate=mean,
        ),
        Figure(
            name="inherited_tv",
            cut="inherited-tv",
            side="below",
            # Runs have a spread of .17 to .35 of the mean, and correlations of .2 to .5; the
            # second is harsher.
            laws=beta(cut["inherited-tv"], 0.035, (0.0, 0.3, 0.5))
            + beta(cut["inherited-tv"], 0.09),
            estimate=skewed,
            alpha=ALPHA_SKEWED,
        ),
        Figure(
            name="type_explained",
            cut="agnostic-share",
            side="above",
            laws=[
                by_label(12, 0.0, 0.590),
                by_label(12, 0.15, 0.623),
                by_label(12, 0.3, 0.692),
                by_label(12, 0.42, 0.736),
                by_label(200, 0.15, 0.624),
                by_label(200, 0.42, 0.735),
                by_label(None, 0.15, 0.572),
                by_label(None, 0.42, 0.719),
            ],
            estimate=of_tokens,
            alpha=ALPHA / len(LABELS),
            least=DEFAULT["agnostic-prompts"],
            replications=FEWER,
        ),
    ]


def _shares(half: float, side: Literal["above", "below"]) -> list[Law]:
    """Prompts all alike, and of two kinds; the rarer kind may hold up the side, or not be seen."""
    low, high = (_NOT_SEEN, None) if side == "above" else (None, _NOT_SEEN)
    kinds = [two_kinds(half, 0.25, 0.05, low), two_kinds(half, 0.25, 0.95, high)]
    return in_or_out(half) + kinds


def _alone(laws: Sequence[Law]) -> list[Law]:
    """Of a shape at several correlations the first: one completion is correlated with none."""
    return [law for law in laws if law.correlation == 0]
