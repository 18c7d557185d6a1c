"""A result opened for a comparison: its report, and of its tables what figures are paired by."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa

from arca_diag.compared import Label
from arca_diag.errors import ResultError
from arca_diag.gate.reading import IN_RUN, read_result, result_at
from arca_diag.gate.scope import finite, label_of
from arca_diag.results import Measurement, Report, View
from arca_diag.saved import read_columns
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import ROLLOUTS, TOKENS, TRAJECTORIES

#: Figures that trajectories.parquet has a value of for every completion.
OF_COMPLETIONS = (
    "gini_corrected",
    "effn_corrected",
    "token_share_90",
    "inherited_tv",
)
_KEYS = ("checkpoint", "rollout_id", "group_id", "own_set", "fixed_set", "n_tokens")
_MEMBERS: tuple[tuple[View, str], ...] = (("on-policy", "own_set"), ("fixed-set", "fixed_set"))


def _columns(schema: pa.Schema, *names: str) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names])


@dataclass(frozen=True, kw_only=True)
class Completions:
    """What a comparison needs of the tables.

    Attributes:
        rows: A row a completion, checkpoint and signal, with its prompt and completion and the
            signal's mean over counted tokens, as judged at the configured power.
    """

    rows: pd.DataFrame

    @cached_property
    def _parts(self) -> dict[tuple[str, View, str], pd.DataFrame]:
        found: dict[tuple[str, View, str], pd.DataFrame] = {}
        for (checkpoint, signal), rows in self.rows.groupby(["checkpoint", "signal"], sort=False):
            for view, member in _MEMBERS:
                found[str(checkpoint), view, str(signal)] = rows[rows[member]].set_index(
                    "rollout_id", drop=False
                )
        return found

    def of(self, checkpoint: str, view: View, signal: str) -> pd.DataFrame:
        """A row a completion, by its rollout_id."""
        found = self._parts.get((checkpoint, view, signal))
        return self.rows.iloc[:0].set_index("rollout_id", drop=False) if found is None else found


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A result.

    Attributes:
        label: As it was named.
        report: All of it.
        sharpening: The power that its credit was judged at; all that is compared is of that.
        completions: None where the tables are not at hand.
        without: Why they are not; None where they are.
    """

    label: str
    report: Report
    sharpening: float
    completions: Completions | None
    without: str | None

    @cached_property
    def names(self) -> dict[Label, str]:
        """Label -> folder name of every measured checkpoint, in step order."""
        return {label_of(c): c.name for c in self.report.run.checkpoints if c.measured}

    @cached_property
    def figures(self) -> dict[tuple[Label, View, str | None, float | None, str], Measurement]:
        """Every figure that is of no second signal or checkpoint."""
        return {
            (m.checkpoint, m.view, m.signal, m.sharpening, m.name): m
            for m in self.report.measurements
            if m.against is None
        }


def open_result(path: Path) -> Opened:
    """A result folder, its report, or a run that has a result.

    Raises:
        ResultError: There is none, or it is unfinished, unreadable, of another version, or
            contradicts itself.
    """
    folder, report = read_result(result_at(path))
    sharpening = finite(report.provenance.options.get("sharpening"))
    if sharpening is None or sharpening <= 0:
        raise ResultError(f"{path} does not say at which sharpening it was judged")
    completions, without = None, None
    try:
        completions = _read(folder, report, sharpening)
    except ResultError as error:
        without = str(error).replace(f"{folder}{os.sep}", "")
    return Opened(
        label=_label(path, folder),
        report=report,
        sharpening=sharpening,
        completions=completions,
        without=without,
    )


def _label(path: Path, folder: Path) -> str:
    """The result's name: as it was given; of a path from the root its end, not where a user is."""
    if path.is_absolute():
        keep = 2 if folder.name == IN_RUN else 1
        path = Path(*folder.parts[-keep:])
    return str(path).encode("utf-8", "backslashreplace").decode()


def _read(folder: Path, report: Report, sharpening: float) -> Completions:
    columns = _columns(TRAJECTORIES, *_KEYS, "signal", "sharpening", *OF_COMPLETIONS)
    rows = read_columns(folder, report, "trajectories.parquet", columns)
    columns = _columns(ROLLOUTS, "rollout_id", "cluster", "completion")
    rollouts = read_columns(folder, report, "rollouts.parquet", columns)
    columns = _columns(TOKENS, "checkpoint", "rollout_id", "counted", *SIGNAL_NAMES)
    tokens = read_columns(folder, report, "tokens.parquet", columns)
    _check_keys(folder / "rollouts.parquet", rollouts, ["rollout_id"], ["cluster", "completion"])
    keys = ["checkpoint", "rollout_id", "signal"]
    rows = rows[rows["sharpening"] == sharpening]
    rows = rows.merge(rollouts, on="rollout_id", how="left", validate="many_to_one")
    named = ["group_id", "own_set", "fixed_set", "n_tokens", "cluster"]
    _check_keys(folder / "trajectories.parquet", rows, keys, named)
    counted = tokens[tokens["counted"].fillna(False).astype(bool)]
    by = ["checkpoint", "rollout_id"]
    means = counted.groupby(by, sort=False)[list(SIGNAL_NAMES)].mean().reset_index()
    long = means.melt(id_vars=by, var_name="signal", value_name="mean")
    return Completions(rows=rows.merge(long, on=[*by, "signal"], how="left"))


def _check_keys(file: Path, rows: pd.DataFrame, keys: list[str], named: list[str]) -> None:
    """Check that a table names every row, each another: a stranger may have made it."""
    if rows[[*keys, *named]].isna().any(axis=None) or rows.duplicated(keys).any():
        raise ResultError(f"{file} names two rows alike, or a row not at all")
