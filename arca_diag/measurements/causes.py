"""The figures that causes are judged by: what makes a signal's credit look as it does."""

import pandas as pd

from arca_diag.diagnostics.uncertainty import cluster_mean, cluster_mean_skewed, cluster_share
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import Estimator, figure, measurement, why_undefined
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import Cuts
from arca_diag.trajectory import REFERENCE_SIGNALS
from arca_diag.verdict import NO_SIGNAL


def measure_causes(evidence: Evidence) -> list[Measurement]:
    """What of each signal's credit is floor, the reference's, its construction's or its ends'.

    `floor_share` is the share of the credit that is epsilon, the same at every sharpening.
    `inherited_tv` is how far the credit is from the reference's, for signals that the reference
    has too; its interval allows for skewness. `structural_excess` is G^ of entropy reduction less
    that of the same entropies in random order. `gini_inner` and `effn_inner` are G^ and e^ without
    the first token and the closing end token. `short_share`, which is of no signal, is the share
    of completions that count too few tokens to be judged.
    """
    out = []
    for place in evidence.places():
        out.append(_short_share(place, evidence.cuts))
        for signal in SIGNAL_NAMES:
            part = place.of(signal, 1.0)
            floor = part["floor_share"].to_numpy(float)
            out.append(figure(place, "floor_share", floor, part, signal=signal))
            for power in evidence.powers:
                out += _of_credit(place, signal, power)
    return out


def _short_share(place: Place, cuts: Cuts) -> Measurement:
    """Share of completions below the cut, or below the two tokens that any figure needs."""
    rows = place.completions
    n_tokens = rows["n_tokens"].to_numpy(int)
    short = cuts.passed("tokens-short", n_tokens) | (n_tokens < 2)
    found = cluster_share(short, rows["cluster"].to_numpy(object))
    reason = why_undefined(place.view, rows)
    return measurement(place, "short_share", found, rows, reason=reason)


def _of_credit(place: Place, signal: str, power: float) -> list[Measurement]:
    """Those that depend on the sharpening."""
    rows = place.of(signal, power)
    no_credit = rows["gini_corrected"].isna().all()

    def of(
        name: str, values: pd.Series, reason: str, estimate: Estimator = cluster_mean
    ) -> Measurement:
        if no_credit:
            reason = why_undefined(place.view, rows)
        return figure(
            place,
            name,
            values.to_numpy(float),
            rows,
            signal=signal,
            sharpening=power,
            reason=reason,
            estimate=estimate,
        )

    out = [of(name, rows[name], _why_no_inner(rows)) for name in ("gini_inner", "effn_inner")]
    if signal in REFERENCE_SIGNALS:
        reason = "where the policy has credit, every raw score of the reference is exactly zero"
        out.append(of("inherited_tv", rows["inherited_tv"], reason, cluster_mean_skewed))
    if signal == "entropy_reduction":
        excess = rows["gini_corrected"] - rows["gini_permuted"]
        reason = "no entropy falls in any order that was drawn"
        out.append(of("structural_excess", excess, reason))
    return out


def _why_no_inner(rows: pd.DataFrame) -> str:
    """Why there is no figure without the ends where there is one with them."""
    if (rows["class_inner"] == NO_SIGNAL).any():
        return "every raw score is exactly zero, the ends aside"
    return "every completion counts fewer than two tokens, the ends aside"
