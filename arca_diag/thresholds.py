"""Every cut that decides something, as data: value, comparator, and where the number comes from.

Nothing else in the package holds such a number. `arca-diag explain ID` prints one, a report holds
those it was judged by, and `[thresholds]` in the configuration gives other values.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

from arca_diag.results import Threshold

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_POSTER = "the ARCA author's poster shades Gini .25 to .60 as the useful middle"
_GAMMA = "e^ of a gamma distribution whose Gini is the cut beside it"
_LITTLE_LEFT = "hardly anything left of the other side"

REGIME_THRESHOLDS = (
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
    Threshold(
        id="share-majority",
        value=0.5,
        comparator=">",
        source="a regime is what more than half of the completions have, lower limit of the 95% "
        "interval over prompts",
    ),
    Threshold(
        id="clusters-least",
        value=8,
        comparator=">=",
        source="Student intervals of shares hold their level from 8 clusters on (simulated: wrong "
        "calls .024 to .035 at 8 to 32 clusters of 8, nominal .025)",
    ),
)

CAUSE_THRESHOLDS = (
    Threshold(
        id="noise-share",
        value=0.1,
        comparator=">=",
        source="what rounding alone makes of a signal, over the signal; a tenth moves its G^ by up "
        "to about a tenth",
    ),
    Threshold(
        id="inert-noise",
        value=0.5,
        comparator=">=",
        source="the noise of a residual that is nothing but rounding is as large as itself; half "
        "of it is more than any adapter that acts can be",
    ),
    Threshold(
        id="short-share",
        value=0.5,
        comparator=">",
        source="share of completions under `tokens-short` counted tokens: most cannot be judged",
    ),
    Threshold(
        id="floor-share",
        value=0.5,
        comparator=">",
        source="more than half of the credit is epsilon, which is the same for every token",
    ),
    Threshold(
        id="structural-excess",
        value=0.05,
        comparator="<",
        source="G^ of entropy reduction over that of the same entropies in random order; an "
        "equivalence margin of a fifth of the width of the class `leaning-sparse`",
    ),
    Threshold(
        id="inherited-tv",
        value=0.1,
        comparator="<",
        source="total variation of the weights from the reference's: nine tenths of the credit "
        "are where the base alone puts them; real runs had .02 to .08 in their first steps and "
        ".2 to .65 later",
    ),
    Threshold(
        id="agnostic-share",
        value=0.5,
        comparator=">",
        source="the kind or place of a token, learned on other prompts, goes more than half of "
        "the way from even credit to this one",
    ),
    Threshold(
        id="agnostic-prompts",
        value=16,
        comparator=">=",
        source="prompts from which on `agnostic-share` is judged: a table that few prompts share "
        "is off for all of them. With the truth on the cut up to .08 of runs were called at 8 and "
        ".03 at 12, where an interval held the truth in .929 of them; at 16 .013 and .93 "
        "(simulated)",
    ),
)

ADAPTER_THRESHOLDS = (
    Threshold(
        id="layer-dominates",
        value=0.5,
        comparator=">",
        source="share of one layer in the squared norm of the update; of four layers or more, "
        "embeddings and head aside. Healthy: .21 of 21 layers, .014 of 210",
    ),
)

LOG_THRESHOLDS = (
    Threshold(
        id="no-advantage-warn",
        value=0.5,
        comparator=">",
        source="share of groups without reward spread over the run, lower limit of its 95% "
        "interval (Student's over log entries; Clopper-Pearson's over groups where all are): most "
        "groups teach nothing",
    ),
    Threshold(
        id="no-advantage-error",
        value=0.9,
        comparator=">",
        source="the same: next to no group teaches anything",
    ),
    Threshold(
        id="entropy-collapse-ratio",
        value=0.1,
        comparator="<",
        source="mean entropy at the end over that at the start; a healthy run ends at a third",
    ),
    Threshold(
        id="entropy-collapse-distinct",
        value=0.5,
        comparator=">=",
        source="share of late groups whose completions are all the same",
    ),
    Threshold(
        id="sampler-mismatch-warn",
        value=0.02,
        comparator=">",
        source="mean |log-probability| difference in nats between sampler and trainer; about .012 "
        "is ordinary for vLLM",
    ),
    Threshold(
        id="sampler-mismatch-error",
        value=0.1,
        comparator=">",
        source="the same: eight times the ordinary",
    ),
    Threshold(
        id="kl-at-start",
        value=5e-4,
        comparator=">",
        source="nats; the first step's KL to the policy it starts from is 0 up to rounding; a "
        "PiSSA run measured against its residual base logged 8.7e-4",
    ),
    Threshold(
        id="completions-truncated",
        value=0.5,
        comparator=">",
        source="share of late completions at the length limit: most rewards are of cut answers",
    ),
)

FIDELITY_THRESHOLDS = (
    Threshold(
        id="fidelity-logprob-warn",
        value=0.02,
        comparator=">",
        source="mean |difference| in nats; vLLM against a plain forward differs by about .012",
    ),
    Threshold(
        id="fidelity-logprob-fail",
        value=0.1,
        comparator=">",
        source="mean |difference| in nats; eight times what two inference engines differ by",
    ),
    Threshold(
        id="fidelity-entropy-warn",
        value=0.05,
        comparator=">",
        source="relative; a float32 replay of a bfloat16 training run was 3.5% off, and the policy "
        "one step on is 2% to 4% off",
    ),
    Threshold(
        id="fidelity-entropy-fail",
        value=0.10,
        comparator=">",
        source="relative; twice the tolerance",
    ),
    Threshold(
        id="fidelity-kl-warn",
        value=0.10,
        comparator=">",
        source="relative; a mean of exponentials, so noisier than entropy; twice its tolerance",
    ),
    Threshold(
        id="fidelity-kl-fail",
        value=0.30,
        comparator=">",
        source="relative; another reference moves KL by a factor, not by a share",
    ),
    Threshold(
        id="fidelity-kl-floor",
        value=5e-4,
        comparator="<=",
        source="nats; below it a KL estimate is rounding",
    ),
    Threshold(
        id="fidelity-surprise-warn",
        value=0.05,
        comparator=">",
        source="lower limit of the 95% interval over prompts of mean(surprisal - entropy) over "
        "mean entropy, 0 on a policy's own samples; the tolerance of entropy",
    ),
    Threshold(
        id="fidelity-surprise-fail",
        value=0.10,
        comparator=">",
        source="the same; twice the tolerance",
    ),
    Threshold(
        id="fidelity-surprise-prompts",
        value=8,
        comparator=">=",
        source="prompts from which on surprise is judged: on 2 a right replay failed at .5% of "
        "checkpoints, on 8 hardly ever",
    ),
    Threshold(
        id="fidelity-surprise-text",
        value=0.5,
        comparator=">",
        source="allowed on top where ids are not exact: what tokenising a text again may add to "
        "its surprise",
    ),
    Threshold(
        id="fidelity-surprise-floor",
        value=0.01,
        comparator="<=",
        source="nats; the least entropy that surprise is compared with: two engines that differ by "
        ".012 a token are about 1e-4 of KL apart",
    ),
    Threshold(
        id="fidelity-entropy-floor",
        value=0.2,
        comparator="<=",
        source="nats; the least entropy that a difference is compared with: at a mean of .04 a "
        "bfloat16 forward was .0041 off a float32 one (10.7%); temperature .7 or 1.25 instead of "
        "1 was .022 and .067 off",
    ),
)


class Cuts:
    """The cuts that are in force, by id."""

    def __init__(self, cuts: Iterable[Threshold]) -> None:
        self._cuts = {cut.id: cut for cut in cuts}

    def __getitem__(self, name: str) -> float:
        """The value of a cut."""
        return self._cuts[name].value

    def __iter__(self) -> Iterator[Threshold]:
        """Every cut, in the order in which they stand here."""
        return iter(self._cuts.values())

    def __contains__(self, name: object) -> bool:
        return name in self._cuts

    def passed(self, name: str, values: Any) -> Any:
        """Where values, a number or an array, are past a cut. NaN is past none."""
        cut = self._cuts[name]
        return _COMPARE[cut.comparator](values, cut.value)

    def side(self, name: str) -> Literal["above", "below"]:
        """Which side of a cut is past it."""
        return "above" if self._cuts[name].comparator.startswith(">") else "below"

    def replaced(self, values: Mapping[str, float]) -> "Cuts":
        """These cuts with other values for some; the source says so.

        Raises:
            KeyError: There is no cut of that id.
        """
        changed = dict(self._cuts)
        for name, value in values.items():
            source = f"set in the configuration (by default {changed[name].value:g})"
            changed[name] = changed[name].model_copy(update={"value": value, "source": source})
        return Cuts(changed.values())


#: Those that judge a result's tables, which other values can do again without a model.
OF_TABLES = Cuts((*REGIME_THRESHOLDS, *CAUSE_THRESHOLDS))
#: Those that judge the run's own files, which a result does not hold.
OF_FILES = Cuts((*FIDELITY_THRESHOLDS, *ADAPTER_THRESHOLDS, *LOG_THRESHOLDS))
#: What holds where nothing else is configured.
DEFAULT = Cuts((*OF_TABLES, *OF_FILES))

#: Cuts of one figure between five classes: in this order none may be below the one before.
ASCENDING = (
    ("gini-uniform", "gini-leaning-uniform", "gini-leaning-sparse", "gini-sparse"),
    ("effn-sparse", "effn-leaning-sparse", "effn-leaning-uniform", "effn-uniform"),
)
