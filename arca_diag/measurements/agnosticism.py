"""Which token types, classes and places hold the credit, and how much of it they alone explain."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arca_diag.diagnostics.agnosticism import (
    MIN_TOKENS,
    POSITIONS,
    Layout,
    explained,
    overlap,
    positions,
    shares,
    shuffled,
)
from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean
from arca_diag.measurements.evidence import Evidence, Place, figure, why_undefined
from arca_diag.measurements.groups import generator, measurement
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES

#: Random orders a place: a null's mean is known to about a quarter of its spread.
_SHUFFLES = 20

_NO_LABEL = {
    "type": "token ids are redacted",
    "class": "no tokenizer, or an older result: token classes are not known",
}


def measure_agnosticism(evidence: Evidence) -> list[Measurement]:
    """`type_explained`, `class_explained`, `position_explained`, each with its null, and lifts.

    At the configured sharpening. The null (`..._null`) is the same with each completion's weights
    in random order: its mean and the limits that 95% of the orders stay within. `class_share` and
    `class_lift` (against the class: share of credit, and that over the share of tokens),
    `position_lift` (against the place) have 1 as their null, exactly. `type_overlap` is what share
    of their credit two prompts give to the same types, and `type_overlap_null` the same of even
    credit; pairs of prompts are no independent draws, so it has no interval.
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

    def estimate(self, name: str, found: Estimate, reason: str | None = None) -> Measurement:
        """From a figure of all completions together."""
        return measurement(
            self.place,
            name,
            found,
            self.used if found.n_clusters else self.used.iloc[:0],
            signal=self.signal,
            sharpening=self.evidence.sharpening,
            reason=reason or self.why,
        )

    def labels(self, column: str) -> tuple[np.ndarray, list[str]] | None:
        """A code for every token, and what the codes stand for; None where it is not known."""
        if self.inside[column].isna().any():
            return None
        found = self.inside[column].astype("category").cat
        return found.codes.to_numpy(int), [str(name) for name in found.categories]


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
    completion, names = pd.factorize(inside["rollout_id"])
    used = rows.set_index("rollout_id").loc[list(names)].reset_index()
    layout = Layout(completion=completion, prompt=pd.factorize(used["cluster"])[0])
    why = why_undefined(place.view, rows)
    if len(used):
        why = f"every completion counts fewer than {MIN_TOKENS} tokens, or its credit is even"
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
    types, classes = credit.labels("token_id"), credit.labels("token_class")
    places = positions(layout), list(POSITIONS)
    out = []
    for by, labels in (("type", types), ("class", classes), ("position", places)):
        out += _explained(credit, by, None if labels is None else labels[0], orders.of(layout))
    out += _lifts(credit, "position", *places)
    if classes is not None:
        out += _lifts(credit, "class", *classes)
    if types is not None:
        out += _overlaps(credit, types[0])
    return out


def _explained(
    credit: _Credit, by: str, codes: np.ndarray | None, orders: list[np.ndarray]
) -> list[Measurement]:
    """How much of the credit the label explains, and how much of it in random order."""
    values, nulls = np.full(len(credit.used), np.nan), []
    if codes is not None and len(credit.used):
        values = explained(credit.weights, codes, credit.layout)
        clusters = credit.used["cluster"].to_numpy(object)
        nulls = [
            cluster_mean(explained(credit.weights[order], codes, credit.layout), clusters).value
            for order in orders
        ]
    null = Estimate(value=math.nan, low=math.nan, high=math.nan, n_clusters=0)
    if not np.isnan(values).all():
        low, high = np.quantile(nulls, (0.025, 0.975))
        prompts = credit.used["cluster"][~np.isnan(values)].nunique()
        null = Estimate(
            value=float(np.mean(nulls)), low=float(low), high=float(high), n_clusters=prompts
        )
    reason = _NO_LABEL.get(by) if codes is None else None
    return [
        credit.figure(f"{by}_explained", values, reason=reason),
        credit.estimate(f"{by}_explained_null", null, reason),
    ]


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


def _overlaps(credit: _Credit, codes: np.ndarray) -> list[Measurement]:
    """What share of their credit two prompts give to the same types, and of even credit."""
    layout = credit.layout
    out = []
    for name, weights in (
        ("type_overlap", credit.weights),
        ("type_overlap_null", 1.0 / layout.n_tokens[layout.completion]),
    ):
        held = shares(weights, codes, int(codes.max(initial=-1)) + 1, layout)
        prompts = int(layout.prompt.max(initial=-1)) + 1
        mean = np.zeros((prompts, held.shape[1]))
        np.add.at(mean, layout.prompt, held)
        mean /= np.bincount(layout.prompt, minlength=prompts)[:, None]
        value = overlap(mean)
        found = Estimate(
            value=value,
            low=math.nan,
            high=math.nan,
            n_clusters=0 if math.isnan(value) else prompts,
        )
        out.append(credit.estimate(name, found, "one prompt has none to share with"))
    return out
