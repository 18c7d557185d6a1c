"""The class of one completion: how concentrated its credit is, in words with stated cuts.

The paper gives words (uniform broadcast, spuriously sparse, a useful middle) and no numbers.
The cuts here are data: the author's poster shades Gini .25 to .60 as the useful middle, the
cuts on e^ are those of a gamma distribution with that Gini, .15 and .85 mark "hardly anything
left". Regimes of whole runs are not judged here yet.
"""

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from arca_diag.results import Share, Threshold, Verdict, View

_POSTER = "the ARCA author's poster shades Gini .25 to .60 as the useful middle"
_GAMMA = "e^ of a gamma distribution whose Gini is the cut beside it"
_LITTLE_LEFT = "hardly anything left of the other side"

THRESHOLDS = (
    Threshold(id="gini-uniform", value=0.15, comparator="<=", source=_LITTLE_LEFT),
    Threshold(id="gini-leaning-uniform", value=0.25, comparator="<", source=_POSTER),
    Threshold(id="gini-leaning-sparse", value=0.60, comparator=">", source=_POSTER),
    Threshold(id="gini-sparse", value=0.85, comparator=">=", source=_LITTLE_LEFT),
    Threshold(id="effn-uniform", value=0.93, comparator=">=", source=_GAMMA),
    Threshold(id="effn-leaning-uniform", value=0.83, comparator=">", source=_GAMMA),
    Threshold(id="effn-leaning-sparse", value=0.38, comparator="<", source=_GAMMA),
    Threshold(id="effn-sparse", value=0.12, comparator="<=", source=_GAMMA),
    Threshold(
        id="tokens-short",
        value=5,
        comparator="<",
        source="below T = 5 structureless (exponential) scores reach G^ >= .85 more than 1% "
        "of the time",
    ),
)

CLASSES = ("uniform", "leaning-uniform", "middle", "leaning-sparse", "sparse")
SHORT = "short"
NO_SIGNAL = "no-signal"

_COMPARE = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


def classify(
    gini_corrected: Float[np.ndarray, " completion"],
    effn_corrected: Float[np.ndarray, " completion"],
    n_tokens: Int[np.ndarray, " completion"],
    no_signal: Bool[np.ndarray, " completion"],
    thresholds: tuple[Threshold, ...] = THRESHOLDS,
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
        thresholds: The cuts, by id.

    Returns:
        An object array of class names and None.
    """

    def passed(name: str, values: np.ndarray) -> np.ndarray:
        cut = next(t for t in thresholds if t.id == name)
        return np.asarray(_COMPARE[cut.comparator](values, cut.value))

    # -2 uniform, -1 leaning-uniform, 0 middle, 1 leaning-sparse, 2 sparse. A cut that is passed
    # implies the milder one of its side, so the passed cuts add up.
    def side(prefix: str, values: np.ndarray) -> np.ndarray:
        sparse = 1 * passed(f"{prefix}-leaning-sparse", values) + passed(f"{prefix}-sparse", values)
        flat = 1 * passed(f"{prefix}-leaning-uniform", values) + passed(f"{prefix}-uniform", values)
        return sparse - flat

    by_gini, by_effn = side("gini", gini_corrected), side("effn", effn_corrected)
    milder = np.where(np.abs(by_gini) <= np.abs(by_effn), by_gini, by_effn)
    milder = np.where(by_gini * by_effn <= 0, 0, milder)

    named = np.array(CLASSES, dtype=object)[milder + 2]
    named[np.isnan(gini_corrected) | np.isnan(effn_corrected)] = None  # never "middle"
    named[passed("tokens-short", n_tokens)] = SHORT
    named[no_signal] = NO_SIGNAL
    named[n_tokens < 2] = None
    return named


def exact_verdicts(trajectories: pd.DataFrame, rollouts: pd.DataFrame) -> list[Verdict]:
    """The regimes that are facts and need no statistics: `no-signal` and `undefined`.

    `no-signal` where every completion that can be judged has raw scores of exactly zero,
    `undefined` where none counts two tokens. No other regime is judged here.

    Args:
        trajectories: A row a completion, checkpoint, signal and sharpening.
        rollouts: For each completion its cluster (prompt) and the hash of its ids.
    """
    known = rollouts.set_index("rollout_id")[["cluster", "completion"]]
    out = []
    views: tuple[tuple[View, str], ...] = (("on-policy", "own_set"), ("fixed-set", "fixed_set"))
    for view, member in views:
        inside = trajectories[trajectories[member]]
        keys = ["checkpoint", "signal", "sharpening"]
        for key, part in inside.groupby(keys, sort=False):
            name, signal, sharpening = tuple(key)
            judged = part["class"].dropna()
            if not (judged == NO_SIGNAL).all():
                continue
            step = part["checkpoint_step"].iloc[0]
            used = part if judged.empty else part.loc[judged.index]
            out.append(
                Verdict(
                    checkpoint=str(name) if pd.isna(step) else int(step),
                    view=view,
                    signal=str(signal),
                    sharpening=float(str(sharpening)),
                    regime="undefined" if judged.empty else NO_SIGNAL,
                    shares={}
                    if judged.empty
                    else {NO_SIGNAL: Share(value=1.0, low=None, high=None)},
                    left_out={"undefined": int(part["class"].isna().sum())},
                    disagree=None,
                    n_clusters=known.loc[used["rollout_id"], "cluster"].nunique(),
                    n_groups=used["group_id"].nunique(),
                    n_completions=len(used),
                    n_distinct=len(known.loc[used["rollout_id"]].drop_duplicates()),
                    n_tokens=int(used["n_tokens"].sum()),
                    causes=[],
                    settled_by=None,
                )
            )
    return out
