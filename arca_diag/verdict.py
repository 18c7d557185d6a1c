"""How concentrated credit is, in words with stated cuts: of one completion, and of a checkpoint.

The paper gives words (uniform broadcast, spuriously sparse, a useful middle) and no numbers.
The cuts here are data: the author's poster shades Gini .25 to .60 as the useful middle, the
cuts on e^ are those of a gamma distribution with that Gini, .15 and .85 mark "hardly anything
left". A checkpoint has a regime when surely more than half of its completions have it.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from arca_diag.diagnostics.uncertainty import Estimate, cluster_share, clusters_more
from arca_diag.results import SettledBy, Share, Side, Verdict, View
from arca_diag.thresholds import DEFAULT, Cuts

CLASSES = ("uniform", "leaning-uniform", "middle", "leaning-sparse", "sparse")
SHORT = "short"
NO_SIGNAL = "no-signal"
UNDEFINED = "undefined"
MIXED = "mixed"
INCONCLUSIVE = "inconclusive"

#: Regime -> the classes that count towards it. In this order: the stronger word, where it holds,
#: comes before the weaker one of its side.
REGIMES = {
    NO_SIGNAL: (NO_SIGNAL,),
    "sparse": ("sparse",),
    "leaning-sparse": ("sparse", "leaning-sparse"),
    "uniform": ("uniform",),
    "leaning-uniform": ("uniform", "leaning-uniform"),
    "middle": ("middle",),
}
#: Those that share no completion and together hold all: the sides of `mixed`.
_SIDES = (NO_SIGNAL, "leaning-sparse", "leaning-uniform", "middle")


def classify(
    gini_corrected: Float[np.ndarray, " completion"],
    effn_corrected: Float[np.ndarray, " completion"],
    n_tokens: Int[np.ndarray, " completion"],
    no_signal: Bool[np.ndarray, " completion"],
    cuts: Cuts = DEFAULT,
) -> np.ndarray:
    """Name the class of each completion.

    In this order: None below two counted tokens, `no-signal` if all raw scores are exactly zero,
    `short` below five tokens, None where a figure is NaN; else G^ and e^ each name one of CLASSES
    and the milder of the two holds: the one nearer to `middle`, and `middle` if they lie on
    opposite sides.

    Args:
        gini_corrected: G^ in [0, 1], NaN where undefined.
        effn_corrected: e^ in [0, 1], NaN where undefined.
        n_tokens: Counted tokens T.
        no_signal: True where all counted raw scores are zero.
        cuts: Those in force.

    Returns:
        An object array of class names and None.
    """
    by_gini = _side("gini", gini_corrected, cuts)
    by_effn = _side("effn", effn_corrected, cuts)
    milder = np.where(np.abs(by_gini) <= np.abs(by_effn), by_gini, by_effn)
    milder = np.where(by_gini * by_effn <= 0, 0, milder)

    named = np.array(CLASSES, dtype=object)[milder + 2]
    named[np.isnan(gini_corrected) | np.isnan(effn_corrected)] = None  # never "middle"
    named[cuts.passed("tokens-short", n_tokens)] = SHORT
    named[no_signal] = NO_SIGNAL
    named[n_tokens < 2] = None
    return named


def _side(prefix: str, values: np.ndarray, cuts: Cuts) -> np.ndarray:
    """-2 uniform, -1 leaning-uniform, 0 middle, 1 leaning-sparse, 2 sparse.

    A cut that is passed implies the milder one of its side, so the passed cuts add up.
    """

    def passed(name: str) -> np.ndarray:
        return np.asarray(cuts.passed(f"{prefix}-{name}", values)).astype(int)

    return (
        passed("leaning-sparse") + passed("sparse") - passed("leaning-uniform") - passed("uniform")
    )


def judge_regimes(
    trajectories: pd.DataFrame,
    rollouts: pd.DataFrame,
    cuts: Cuts = DEFAULT,
) -> list[Verdict]:
    """The regime of every checkpoint, view, signal and sharpening that has completions.

    `regime` names the stronger of its side's words for which surely (lower limit of the share
    over prompts) more than half of the classed completions count; `mixed` if surely none has
    half; else `inconclusive`, with what would settle it. Under 8 prompts always inconclusive,
    except where every completion is `no-signal`: exact zeros are facts. `undefined` if no
    completion counts two tokens. `without_ends` is what the same rule says of the classes without
    first and closing token, which are special under every signal.

    Args:
        trajectories: A row a completion, checkpoint, signal and sharpening.
        rollouts: For each completion its cluster (prompt) and the hash of its ids.
        cuts: Those in force.
    """
    known = rollouts.set_index("rollout_id")[["cluster", "completion"]]
    out = []
    views: tuple[tuple[View, str], ...] = (("on-policy", "own_set"), ("fixed-set", "fixed_set"))
    for view, member in views:
        inside = trajectories[trajectories[member]]
        keys = ["checkpoint", "signal", "sharpening"]
        for key, part in inside.groupby(keys, sort=False):
            name, signal, sharpening = tuple(key)
            step = part["checkpoint_step"].iloc[0]
            ids = known.loc[part["rollout_id"]]
            clusters = ids["cluster"].to_numpy(object)
            classes = part["class"].to_numpy(object)
            found = regime_of(classes, clusters, cuts)
            without_ends = regime_of(part["class_inner"].to_numpy(object), clusters, cuts)
            used, ids = part[found.classed], ids[found.classed]
            short = int((classes == SHORT).sum())
            sides = [
                _side(prefix, used[f"{prefix}_corrected"].to_numpy(float), cuts)
                for prefix in ("gini", "effn")
            ]
            out.append(
                Verdict(
                    checkpoint=str(name) if pd.isna(step) else int(step),
                    view=view,
                    signal=str(signal),
                    sharpening=float(str(sharpening)),
                    regime=found.regime,
                    without_ends=without_ends.regime,
                    shares={c: _share(e) for c, e in found.shares.items()},
                    side=_side_of(found),
                    left_out={SHORT: short, UNDEFINED: len(part) - len(used) - short},
                    disagree=None if used.empty else float((sides[0] != sides[1]).mean()),
                    n_clusters=ids["cluster"].nunique(),
                    n_groups=used["group_id"].nunique(),
                    n_completions=len(used),
                    n_distinct=len(ids.drop_duplicates()),
                    n_tokens=int(used["n_tokens"].sum()),
                    causes=[],
                    settled_by=found.settled_by,
                )
            )
    return out


_NOTHING_CLASSED = SettledBy(
    clusters_more=None,
    reason="every completion is too short to be classed: longer ones are needed",
)


@dataclass(frozen=True, kw_only=True)
class Regime:
    """The regime of some completions.

    Attributes:
        regime: One of `REGIMES`, `mixed`, `inconclusive` or `undefined`.
        side: The name in `REGIMES` whose share decided, and that share; None if `undefined`.
        shares: Of each class.
        settled_by: What would settle an inconclusive one.
        classed: Which completions have a class and are not short.
    """

    regime: str
    side: tuple[str, Estimate] | None
    shares: dict[str, Estimate]
    settled_by: SettledBy | None
    classed: np.ndarray


def regime_of(every_class: np.ndarray, every_cluster: np.ndarray, cuts: Cuts) -> Regime:
    """The regime of completions, from those of them that have a class and are not short.

    Args:
        every_class: Each completion's, as from `classify`.
        every_cluster: Each completion's prompt.
        cuts: Those in force.
    """
    classed = pd.notna(every_class) & (every_class != SHORT)
    classes, clusters = every_class[classed], every_cluster[classed]
    half, least = cuts["share-majority"], math.ceil(cuts["clusters-least"])
    shares = {c: cluster_share(classes == c, clusters) for c in (*CLASSES, NO_SIGNAL)}
    inside = {name: np.isin(classes, members) for name, members in REGIMES.items()}
    held = {name: cluster_share(where, clusters) for name, where in inside.items()}
    n = shares[NO_SIGNAL].n_clusters
    largest = max(_SIDES, key=lambda side: held[side].value) if n else None

    def called(regime: str, settled_by: SettledBy | None = None) -> Regime:
        name = regime if regime in held else largest
        return Regime(
            regime=regime,
            side=None if name is None else (name, held[name]),
            shares=shares,
            settled_by=settled_by,
            classed=classed,
        )

    if largest is None:
        if (every_class == SHORT).any():
            return called(INCONCLUSIVE, _NOTHING_CLASSED)
        return called(UNDEFINED)
    if (classes == NO_SIGNAL).all():
        return called(NO_SIGNAL)
    if n >= least:
        for name, share in held.items():
            if share.low > half:
                return called(name)
        if all(held[side].high < half for side in _SIDES):
            return called(MIXED)
    more = clusters_more(inside[largest], clusters, half, at_least=least)
    why = f"{largest} holds {held[largest].value:.0%} of the completions of {n} prompts"
    if n >= least:
        why += f", and its interval ({held[largest].low:.0%} to {held[largest].high:.0%}) has "
        why += f"{half:.0%} in it"
    else:
        why += f", and no regime is judged below {least}"
    return called(INCONCLUSIVE, SettledBy(clusters_more=more, reason=why))


def _side_of(found: Regime) -> Side | None:
    if found.side is None:
        return None
    name, share = found.side
    return Side(regime=name, **_share(share).model_dump())


def _share(found: Estimate) -> Share:
    known = found.n_clusters > 0
    limits = found.n_clusters > 1 or not np.isnan(found.low)
    return Share(
        value=found.value if known else None,
        low=found.low if limits and known else None,
        high=found.high if limits and known else None,
    )
