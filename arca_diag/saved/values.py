"""Whether each column of a table holds what a scan can have written there."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from arca_diag.saved.refusal import refused
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import SCHEMAS, Tables
from arca_diag.verdict import CLASSES, NO_SIGNAL, SHORT

#: Columns that are never null, by table; in all others null is unknown or undefined.
_KNOWN = {
    "tokens": ("checkpoint", "rollout_id", "group_id", "position", "counted"),
    "trajectories": (
        "checkpoint",
        "rollout_id",
        "group_id",
        "own_set",
        "fixed_set",
        "n_tokens",
        "signal",
        "sharpening",
    ),
    "rollouts": (
        "rollout_id",
        "group_id",
        "cluster",
        "completion",
        "ids_exact",
        "n_prompt_tokens",
        "n_completion_tokens",
    ),
    "noise": ("checkpoint", "rollout_id", "replica", "position"),
    "gradients": ("checkpoint", "rollout_id", "position", "gradient_norm", "output_factor"),
    "layers": ("checkpoint", "layer", "residual_mean", "n_clusters", "n_tokens"),
    "log": ("step", "name", "value"),
}
#: Sizes, of which none is below 0; of every counted token they are known.
_SIZES = (*SIGNAL_NAMES, "ref_surprisal", "ref_entropy", "ref_entropy_reduction")
#: Of a token that does not count, over the norm of a vector that may be 0.
_QUOTIENTS = ("relative_residual", "relative_residual_apart")


def check_values(folder: Path, frames: Tables) -> None:
    """Check that nothing is null, infinite, negative or a word where that cannot be.

    Raises:
        ResultError: Something is.
    """
    for name, known in _KNOWN.items():
        frame, file = getattr(frames, name), folder / f"{name}.parquet"
        if frame.empty:
            continue
        for column in known:
            if frame[column].isna().any():
                raise refused(file, f"{column} is null in {_where(frame[column].isna())}")
        if name != "tokens":  # of a token that does not count nobody asks
            floats = [f.name for f in SCHEMAS[name] if f.type == pa.float64() and f.name in frame]
            _check_finite(file, frame, [c for c in floats if c not in _QUOTIENTS])
    _check_tokens(folder / "tokens.parquet", frames.tokens)
    _check_classes(folder / "trajectories.parquet", frames.trajectories)
    for name in ("gradient_norm", "output_factor"):
        below = frames.gradients[name].to_numpy(float) < 0
        if below.any():
            raise refused(folder / "gradients.parquet", f"{name} is below 0 in {_where(below)}")


def _check_finite(file: Path, frame: pd.DataFrame, columns: list[str]) -> None:
    for column in columns:
        wild = np.isinf(frame[column].to_numpy(float))
        if wild.any():
            raise refused(file, f"{column} is infinite in {_where(wild)}")


def _check_tokens(file: Path, tokens: pd.DataFrame) -> None:
    """Signals of counted tokens are finite and none is negative; weights are shares."""
    counted = tokens["counted"].to_numpy(bool)
    for column in (*_SIZES, "log_ratio"):
        values = tokens[column].to_numpy(float)
        wrong = counted & ~np.isfinite(values)
        if wrong.any():
            raise refused(file, f"{column} of a counted token is no number in {_where(wrong)}")
        wrong = counted & (values < 0)
        if column in _SIZES and wrong.any():
            raise refused(file, f"{column} is below 0 in {_where(wrong)}")
    for signal in SIGNAL_NAMES:
        weights = tokens[f"w_{signal}"].to_numpy(float)
        wrong = (weights < 0) | (weights > 1 + 1e-6)
        if wrong.any():
            raise refused(file, f"w_{signal} is no share in {_where(wrong)}")


def _check_classes(file: Path, trajectories: pd.DataFrame) -> None:
    for column in ("class", "class_inner"):
        found = set(trajectories[column].dropna().unique())
        strange = sorted(found - {*CLASSES, SHORT, NO_SIGNAL})
        if strange:
            raise refused(file, f"{column} {strange[0]!r:.80} is none that is known here")


def _where(wrong: pd.Series | np.ndarray) -> str:
    rows = np.flatnonzero(np.asarray(wrong))
    more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
    return f"row {rows[0] + 1:,}{more}"
