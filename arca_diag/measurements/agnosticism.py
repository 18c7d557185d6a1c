"""Which token types, classes and places hold the credit, and how much of it they alone explain."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from arca_diag.diagnostics.agnosticism import (
    MIN_TOKENS,
    POSITIONS,
    Layout,
    explained,
    explained_mean,
    overlap,
    positions,
    shares,
    shuffled,
)
from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean
from arca_diag.measurements.evidence import Evidence, Place
from arca_diag.measurements.figures import figure, measurement, why_undefined
from arca_diag.measurements.groups import generator
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

#: Random orders a place. The Monte Carlo error of a null's mean is 1/sqrt(20), .22 of the spread
#: between orders; its limits are little more than the extremes of the 20, each a third of the
#: spread uncertain.
_SHUFFLES = 20

_UNDEFINED = Estimate(value=math.nan, low=math.nan, high=math.nan, n_clusters=0)
_ONE_PROMPT = "there is one prompt, and no other to compare it with"
_NO_LABEL = {
    "type": "token ids are redacted",
    "class": "no tokenizer, or an older result: token classes are not known",
}


def measure_agnosticism(evidence: Evidence) -> list[Measurement]:
    """`type_explained`, `class_explained`, `position_explained`, with nulls, lifts and overlaps.

    Of each signal's credit at the configured sharpening.

    `..._explained` is how far the type, class or place of a token, learned on the other prompts,
    goes from even credit to this one (see `diagnostics.agnosticism.explained`); its interval over
    prompts is the jackknife's.

    `class_share`, against the class, is the share of a completion's credit that the class holds.
    `class_lift` is that over the class's share of the tokens, of the completions that have one;
    `position_lift`, against the place, is the same of the first token, the last, and tenths of the
    way for those between. In random order a lift is exactly 1 on average.

    `type_overlap` is what share of their credit two prompts give to the same types (see
    `diagnostics.agnosticism.overlap`). Pairs of prompts are no independent draws, so it has no
    interval. `token_overlap`, once a place, is the same of even credit: how alike the texts of
    different prompts are. Near 1 all answers are one template, and what type and place explain
    together cannot be told from what context does.

    `..._null` is the mean of the same over random orders of each completion's weights. Its `low`
    and `high` are no confidence interval: 95% of the orders lie there.
    """
    tokens = evidence.tokens[evidence.tokens["counted"]]
    by_checkpoint = {str(name): part for name, part in tokens.groupby("checkpoint", sort=False)}
    out = []
    for place in evidence.places():
        rows = place.completions.reset_index(drop=True)
        inside = by_checkpoint.get(place.name, tokens.iloc[:0])
        inside = inside[inside["rollout_id"].isin(rows["rollout_id"])]
        order = {name: n for n, name in enumerate(rows["rollout_id"])}
        completion = inside["rollout_id"].map(order).to_numpy(int)
        inside = inside.iloc[np.argsort(completion, kind="stable")]
        orders = _Orders(generator(evidence, place))
        out.append(_token_overlap(place, rows, inside))
        for signal in SIGNAL_NAMES:
            out += _of_signal(evidence, place, rows, inside, signal, orders)
    return out


class _Orders:
    """The random orders of a place: the same for every signal that has the same completions."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._drawn: dict[bytes, list[np.ndarray]] = {}

    def of(self, layout: Layout) -> list[np.ndarray]:
        """So many as a null takes."""
        key = layout.n_tokens.tobytes()
        if key not in self._drawn:
            self._drawn[key] = [shuffled(layout, self._rng) for _ in range(_SHUFFLES)]
        return self._drawn[key]


@dataclass(frozen=True, kw_only=True)
class _Credit:
    """One signal's credit at one place, token after token."""

    evidence: Evidence
    place: Place
    signal: str
    weights: np.ndarray
    inside: pd.DataFrame  # the tokens
    used: pd.DataFrame  # the completions
    layout: Layout
    why: str  # there is none, where that is so

    def figure(
        self, name: str, values: np.ndarray, against: str | None = None, reason: str | None = None
    ) -> Measurement:
        """From one value a completion."""
        return figure(
            self.place,
            name,
            values,
            self.used,
            signal=self.signal,
            sharpening=self.evidence.sharpening,
            against=against,
            reason=reason or self.why,
        )

    def estimate(
        self, name: str, found: Estimate, defined: np.ndarray, reason: str | None = None
    ) -> Measurement:
        """From a figure of all completions together that these are defined in."""
        clusters = set(self.used["cluster"].to_numpy()[defined].tolist())
        return measurement(
            self.place,
            name,
            replace(found, n_clusters=len(clusters)),
            self.used,
            defined=defined,
            signal=self.signal,
            sharpening=self.evidence.sharpening,
            reason=reason or self.why,
        )


def _labels(tokens: pd.DataFrame, column: str) -> tuple[np.ndarray, list[str]] | None:
    """A code for every token, and what the codes stand for; None where it is not known."""
    if tokens[column].isna().any():
        return None
    found = tokens[column].astype("category").cat
    return found.codes.to_numpy(int), [str(name) for name in found.categories]


def _token_overlap(place: Place, rows: pd.DataFrame, inside: pd.DataFrame) -> Measurement:
    """How alike the texts of different prompts are, by their types alone."""
    types = _labels(inside, "token_id")
    layout, used = _layout(rows, inside)
    value = math.nan
    if types is not None:
        value = overlap(1.0 / layout.n_tokens[layout.completion], types[0], layout)
    reason = why_undefined(place.view, rows)
    if len(used):
        reason = _NO_LABEL["type"] if types is None else _ONE_PROMPT
    used = used.iloc[:0] if math.isnan(value) else used
    found = replace(_UNDEFINED, value=value, n_clusters=used["cluster"].nunique())
    return measurement(place, "token_overlap", found, used, reason=reason)


def _layout(rows: pd.DataFrame, inside: pd.DataFrame) -> tuple[Layout, pd.DataFrame]:
    """Where these tokens stand, and the completions that they are of."""
    completion, names = pd.factorize(inside["rollout_id"])
    used = rows.set_index("rollout_id").loc[list(names)].reset_index()
    return Layout(completion=completion, prompt=pd.factorize(used["cluster"])[0]), used


def _of_signal(
    evidence: Evidence,
    place: Place,
    rows: pd.DataFrame,
    inside: pd.DataFrame,
    signal: str,
    orders: "_Orders",
) -> list[Measurement]:
    """Of the completions that have credit by this signal."""
    weights = inside[f"w_{signal}"].to_numpy(float)
    inside, weights = inside[~np.isnan(weights)], weights[~np.isnan(weights)]
    layout, used = _layout(rows, inside)
    why = why_undefined(place.view, place.of(signal, float(evidence.sharpening)))
    if len(used):
        why = f"every completion counts fewer than {MIN_TOKENS} tokens, or its credit is even"
    if used["cluster"].nunique() == 1:
        why = _ONE_PROMPT
    credit = _Credit(
        evidence=evidence,
        place=place,
        signal=signal,
        weights=weights,
        inside=inside,
        used=used,
        layout=layout,
        why=why,
    )
    types, classes = _labels(inside, "token_id"), _labels(inside, "token_class")
    places = positions(layout), list(POSITIONS)
    out = []
    for by, labels in (("type", types), ("class", classes), ("position", places)):
        out += _explained(credit, by, None if labels is None else labels[0], orders.of(layout))
    out += _lifts(credit, "position", *places)
    if classes is not None:
        out += _lifts(credit, "class", *classes)
    out += _overlaps(credit, None if types is None else types[0], orders.of(layout))
    return out


def _explained(
    credit: _Credit, by: str, codes: np.ndarray | None, orders: list[np.ndarray]
) -> list[Measurement]:
    """How much of the credit the label explains, and how much of it in random order."""
    found, nulls, layout = _UNDEFINED, [], credit.layout
    defined = np.zeros(len(credit.used), dtype=bool)
    if codes is not None:
        found = explained_mean(credit.weights, codes, layout)
        defined = ~np.isnan(explained(credit.weights, codes, layout))
        nulls = [
            cluster_mean(explained(credit.weights[order], codes, layout), layout.prompt).value
            for order in orders
        ]
    reason = _NO_LABEL.get(by) if codes is None else None
    return [
        credit.estimate(f"{by}_explained", found, defined, reason),
        credit.estimate(f"{by}_explained_null", _null(nulls), defined, reason),
    ]


def _null(draws: list[float]) -> Estimate:
    """Mean of the random orders, and the limits that 95% of them stay within."""
    draws = [value for value in draws if not math.isnan(value)]
    if not draws:
        return _UNDEFINED
    low, high = np.quantile(draws, (0.025, 0.975))
    return replace(_UNDEFINED, value=float(np.mean(draws)), low=float(low), high=float(high))


def _lifts(credit: _Credit, by: str, codes: np.ndarray, names: list[str]) -> list[Measurement]:
    """Share of credit, and that over the share of tokens, of every label that occurs."""
    layout = credit.layout
    even = shares(1.0 / layout.n_tokens[layout.completion], codes, len(names), layout)
    held = shares(credit.weights, codes, len(names), layout)
    lift = np.divide(held, even, out=np.full(held.shape, np.nan), where=even > 0)
    out = []
    for place, name in enumerate(names):
        if not (even[:, place] > 0).any():
            continue
        if by == "class":
            out.append(credit.figure("class_share", held[:, place], against=name))
        out.append(credit.figure(f"{by}_lift", lift[:, place], against=name))
    return out


def _overlaps(
    credit: _Credit, codes: np.ndarray | None, orders: list[np.ndarray]
) -> list[Measurement]:
    """What share of their credit two prompts give to the same types, and in random order."""
    found, nulls, reason = _UNDEFINED, [], None
    if codes is None:
        reason = _NO_LABEL["type"]
    else:
        found = replace(found, value=overlap(credit.weights, codes, credit.layout))
        nulls = [overlap(credit.weights[order], codes, credit.layout) for order in orders]
    used = np.full(len(credit.used), not math.isnan(found.value))
    return [
        credit.estimate("type_overlap", found, used, reason),
        credit.estimate("type_overlap_null", _null(nulls), used, reason),
    ]
