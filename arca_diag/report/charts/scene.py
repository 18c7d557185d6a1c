"""What pictures are drawn from: the figures of a report by what they are of, and last tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from arca_diag.diagnostics.agnosticism import Layout
from arca_diag.report.charts.finite import left_out_words, n_infinite
from arca_diag.report.charts.text import shown
from arca_diag.report.words import at, count, safe
from arca_diag.results import Measurement, Report, View
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables
from arca_diag.thresholds import Cuts

#: View -> the column of trajectories.parquet that says which completions are in it.
MEMBERS: Mapping[View, str] = {"on-policy": "own_set", "fixed-set": "fixed_set"}

Label = int | str
_Key = tuple[str, View, str | None, str | None, Label]


@dataclass(frozen=True, kw_only=True)
class Last:
    """The last checkpoint that has completions in a view, and these.

    Attributes:
        view: Which completions.
        name: Folder name of the checkpoint.
        label: How reports name it.
        rows: Of trajectories.parquet: a row a completion, signal and sharpening.
        tokens: Of tokens.parquet: the counted ones, completion after completion.
        clusters: Completion -> its prompt.
    """

    view: View
    name: str
    label: Label
    rows: pd.DataFrame
    tokens: pd.DataFrame
    clusters: Mapping[str, str]

    @property
    def where(self) -> str:
        """View and checkpoint in a sentence."""
        return f"{self.view} at {safe(at(self.label))}"

    @property
    def heading(self) -> str:
        """View and checkpoint above a panel."""
        return f"{self.view}, {shown(at(self.label), 16)}"

    @cached_property
    def sample(self) -> str:
        """How many prompts, completions and counted tokens: for a caption."""
        each = self.rows.drop_duplicates("rollout_id")
        prompts = each["rollout_id"].map(self.clusters).nunique()
        return (
            f"{count(prompts, 'prompt')}, {count(len(each), 'completion')} and "
            f"{count(int(each['n_tokens'].sum()), 'token')}"
        )

    @cached_property
    def n_infinite(self) -> int:
        """On how many tokens a credit is infinite: their completions are not drawn under it."""
        return n_infinite(self.tokens, [f"w_{name}" for name in SIGNAL_NAMES])

    @cached_property
    def _completions(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each token its completion, from 0; of each completion its prompt, from 0."""
        codes, names = pd.factorize(self.tokens["rollout_id"])
        prompts = pd.factorize(np.array([self.clusters[name] for name in names], dtype=object))[0]
        return codes, prompts

    def credit(self, signal: str) -> "Credit":
        """The credit by one signal, of the completions that have it on all of their tokens."""
        weights = self.tokens[f"w_{signal}"].to_numpy(float)
        codes, prompts = self._completions
        known = ~np.isnan(weights) & ~np.isin(codes, codes[np.isinf(weights)])
        used, completion = np.unique(codes[known], return_inverse=True)
        prompt = np.unique(prompts[used], return_inverse=True)[1]
        layout = Layout(completion=completion, prompt=prompt)
        return Credit(weights=weights[known], known=known, layout=layout)


@dataclass(frozen=True, kw_only=True)
class Credit:
    """Credit of tokens, completion after completion.

    Attributes:
        weights: Sum to 1 in each completion.
        known: Of all tokens of the checkpoint, which these are.
        layout: Where they stand.
    """

    weights: Float[np.ndarray, " token"]
    known: np.ndarray
    layout: Layout

    @cached_property
    def part(self) -> Float[np.ndarray, " completion"]:
        """What a completion counts in the mean over prompts of the mean over completions."""
        prompt = self.layout.prompt
        each = np.bincount(prompt)
        return 1.0 / (len(each) * each[prompt]) if len(prompt) else np.empty(0)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A result to be drawn."""

    report: Report
    frames: Tables

    @cached_property
    def sharpening(self) -> float:
        """The configured power."""
        return float(self.report.provenance.options["sharpening"])

    @cached_property
    def cuts(self) -> Cuts:
        """Those the report was judged by."""
        return Cuts(self.report.thresholds)

    @cached_property
    def _figures(self) -> dict[_Key, Measurement]:
        return {
            (m.name, m.view, m.signal, m.against, m.checkpoint): m
            for m in self.report.measurements
            if m.sharpening in (None, self.sharpening)
        }

    @cached_property
    def _orders(self) -> dict[View, list[Label]]:
        orders: dict[View, dict[Label, None]] = {view: {} for view in MEMBERS}
        for m in self.report.measurements:
            orders[m.view][m.checkpoint] = None
        return {view: list(found) for view, found in orders.items()}

    def figure(
        self,
        name: str,
        view: View,
        checkpoint: Label,
        signal: str | None = None,
        against: str | None = None,
    ) -> Measurement | None:
        """One figure at the configured sharpening; None if the report has none of that name."""
        return self._figures.get((name, view, signal, against, checkpoint))

    def pair(
        self, name: str, view: View, checkpoint: Label, one: str, other: str
    ) -> Measurement | None:
        """A figure of two signals, whichever of them the report has first."""
        return self.figure(name, view, checkpoint, one, other) or self.figure(
            name, view, checkpoint, other, one
        )

    def over_checkpoints(
        self, name: str, view: View, signal: str | None = None
    ) -> list[Measurement]:
        """A figure at every checkpoint, in the order of the report."""
        found = (self.figure(name, view, at, signal) for at in self._orders[view])
        return [one for one in found if one is not None]

    def against(self, name: str, view: View, checkpoint: Label) -> list[str]:
        """What a figure is given against there, in the order of the report."""
        return list(
            dict.fromkeys(
                m.against
                for m in self.report.measurements
                if m.against is not None
                and (m.name, m.view, m.checkpoint) == (name, view, checkpoint)
            )
        )

    @cached_property
    def lasts(self) -> tuple[Last, ...]:
        """The last checkpoint of each view that has completions."""
        found = (self._last(view) for view in MEMBERS)
        return tuple(last for last in found if last is not None)

    def _last(self, view: View) -> Last | None:
        rows = self.frames.trajectories
        rows = rows[rows[MEMBERS[view]].astype(bool)]
        if rows.empty:
            return None
        name, step = rows["checkpoint"].iloc[-1], rows["checkpoint_step"].iloc[-1]
        rows = rows[(rows["checkpoint"] == name) & (rows["sharpening"] == self.sharpening)]
        tokens = self._tokens_of(name)
        rollouts = self.frames.rollouts
        return Last(
            view=view,
            name=name,
            label=name if pd.isna(step) else int(step),
            rows=rows,
            tokens=tokens[tokens["rollout_id"].isin(rows["rollout_id"].unique())],
            clusters=dict(zip(rollouts["rollout_id"], rollouts["cluster"], strict=True)),
        )

    def _tokens_of(self, checkpoint: str) -> pd.DataFrame:
        """Counted tokens of one checkpoint; both views mostly ask for the same."""
        kept: dict[str, pd.DataFrame] = self.__dict__.setdefault("_kept", {})
        if checkpoint not in kept:
            tokens = self.frames.tokens
            inside = (tokens["checkpoint"] == checkpoint) & tokens["counted"].astype(bool)
            kept[checkpoint] = tokens[inside.to_numpy(bool)]
        return kept[checkpoint]


def views(lasts: Sequence[Last]) -> str:
    """The views of a picture, as a `Picture` names them."""
    return " and ".join(last.view for last in lasts)


def places(lasts: Sequence[Last]) -> str:
    """Of what a picture is: `on-policy at step 60 (8 prompts, ...)`."""
    return "; ".join(f"{one.where}: {one.sample}" for one in lasts)


def left_out(lasts: Sequence[Last]) -> str:
    """How much of the credit of these is infinite, for the end of a caption; mostly nothing."""
    return left_out_words(sum(last.n_infinite for last in lasts))


def values(found: Sequence[Measurement]) -> Any:
    """Value, low and high of measurements as arrays, NaN where there is none."""
    return tuple(
        np.array([np.nan if getattr(m, end) is None else getattr(m, end) for m in found], float)
        for end in ("value", "low", "high")
    )


def of_signals(found: Mapping[str, Any]) -> list[str]:
    """The signals that something is known of, in the order of all pictures."""
    return [name for name in SIGNAL_NAMES if name in found]
