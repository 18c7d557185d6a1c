"""Whether the rows of the tables are of the same completions: none missing, strange, or twice."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from arca_diag.saved.refusal import refused
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables

_COMPLETION = ["checkpoint", "rollout_id"]


def check_rows(folder: Path, frames: Tables) -> None:
    """Check that every table is of the completions and checkpoints that the tokens are of.

    Raises:
        ResultError: One has others, too few, or the same ones twice, or says of one completion
            what another table does not.
    """
    tokens, rollouts = frames.tokens, frames.rollouts
    starts, lengths = _completions(
        folder / "tokens.parquet", tokens, [*_COMPLETION, "rollout_step", "group_id"], _COMPLETION
    )
    heads = tokens.iloc[starts].reset_index(drop=True)
    _check_rollouts(folder, heads, lengths, rollouts)
    counted = tokens["counted"].to_numpy(bool).astype(int)
    n_tokens = np.add.reduceat(counted, starts) if len(starts) else np.empty(0, int)
    _check_trajectories(
        folder / "trajectories.parquet", frames.trajectories, heads.assign(n_tokens=n_tokens)
    )
    known = pd.MultiIndex.from_frame(heads[_COMPLETION])
    _check_noise(folder / "noise.parquet", frames.noise, known, lengths)
    if len(frames.gradients):
        places = [*_COMPLETION, "position"]
        file = folder / "gradients.parquet"
        _check_unique(file, frames.gradients, places)
        known = pd.MultiIndex.from_frame(tokens.loc[tokens["counted"].to_numpy(bool), places])
        _check_known(file, frames.gradients, places, known, "a token")
    _check_unique(folder / "layers.parquet", frames.layers, ["checkpoint", "layer"])


def _completions(
    file: Path, frame: pd.DataFrame, same: Sequence[str], keys: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Where each completion's rows begin, and how many they are: 0, 1, 2 and so on, together.

    Args:
        file: Of the table.
        frame: It has a column `position`.
        same: Columns that are the same in all rows of a completion.
        keys: Those of them that are of one completion alone.
    """
    position = frame["position"].to_numpy(np.int64)
    starts = np.flatnonzero(position == 0)
    lengths = np.diff(np.append(starts, len(frame)))
    whole = len(frame) == lengths.sum() and np.array_equal(
        position, np.arange(len(frame)) - np.repeat(starts, lengths)
    )
    if not whole:
        raise refused(file, "the tokens of a completion are not whole and in their order")
    for column in same:
        codes = pd.factorize(frame[column])[0]
        if not np.array_equal(codes, np.repeat(codes[starts], lengths)):
            raise refused(file, f"the tokens of one completion are of more than one {column}")
    _check_unique(file, frame.iloc[starts], keys)
    return starts, lengths


def _check_rollouts(
    folder: Path, heads: pd.DataFrame, lengths: np.ndarray, rollouts: pd.DataFrame
) -> None:
    """Check that both tables have the same completions, and say the same of them."""
    file, of_tokens = folder / "rollouts.parquet", folder / "tokens.parquet"
    _check_unique(file, rollouts, ["rollout_id"])
    named = rollouts.set_index("rollout_id")
    strange = heads.loc[~heads["rollout_id"].isin(named.index), "rollout_id"]
    if len(strange):
        raise refused(
            of_tokens,
            f"completion {strange.iloc[0]!r:.80} is not in rollouts.parquet{_more(strange)}",
        )
    without = named.index[~named.index.isin(heads["rollout_id"])]
    if len(without):
        raise refused(file, f"completion {without[0]!r:.80} has no tokens{_more(without)}")
    told = named.loc[heads["rollout_id"]]
    for column in ("group_id", "rollout_step"):
        if not _alike(heads[column], told[column]):
            raise refused(of_tokens, f"{column} is not what rollouts.parquet says")
    if not np.array_equal(told["n_completion_tokens"].to_numpy(np.int64), lengths):
        raise refused(of_tokens, "a completion is not as long as rollouts.parquet says")


def _check_trajectories(file: Path, rows: pd.DataFrame, heads: pd.DataFrame) -> None:
    """Check for a row a completion, signal and sharpening, in the order of the tokens."""
    signals = list(dict.fromkeys(rows["signal"]))
    if len(heads) and set(signals) != set(SIGNAL_NAMES):
        strange = sorted({*signals} ^ {*SIGNAL_NAMES})
        raise refused(
            file, f"it is not of the signals of this version: {', '.join(map(repr, strange))[:200]}"
        )
    blocks = rows.drop_duplicates(["signal", "sharpening"])[["signal", "sharpening"]]
    powers = len(blocks["sharpening"].unique())
    if len(blocks) != len(signals) * powers or len(rows) != len(blocks) * len(heads):
        raise refused(file, "it has not one row for every completion, signal and sharpening")
    of_block = [np.repeat(blocks[c].to_numpy(), len(heads)) for c in ("signal", "sharpening")]
    for column, wanted in zip(("signal", "sharpening"), of_block, strict=True):
        if not np.array_equal(rows[column].to_numpy(), wanted):
            raise refused(file, f"the rows of one {column} are not together")
    again = np.tile(np.arange(len(heads)), len(blocks))
    for column in (*_COMPLETION, "checkpoint_step", "group_id", "n_tokens"):
        if not _alike(rows[column], heads[column].iloc[again]):
            raise refused(file, f"{column} is not what tokens.parquet says")
    for column in ("own_set", "fixed_set"):
        if not _alike(rows[column], rows[column].iloc[again]):
            raise refused(file, f"{column} of one completion differs between signals")


def _alike(one: pd.Series, other: pd.Series) -> bool:
    """Whether two columns hold the same, null where the other is null."""
    one, other = one.reset_index(drop=True), other.reset_index(drop=True)
    return bool(((one == other) | (one.isna() & other.isna())).all())


def _check_noise(
    file: Path, noise: pd.DataFrame, known: pd.MultiIndex, lengths: np.ndarray
) -> None:
    """Check that what was replayed again are whole completions of the tokens."""
    if noise.empty:
        return
    keys = [*_COMPLETION, "replica"]
    starts, found = _completions(file, noise, keys, keys)
    _check_known(file, noise, _COMPLETION, known, "a completion")
    places = known.get_indexer(pd.MultiIndex.from_frame(noise.iloc[starts][_COMPLETION]))
    if not np.array_equal(found, lengths[places]):
        raise refused(file, "a completion is not as long as in tokens.parquet")


def _check_unique(file: Path, frame: pd.DataFrame, keys: list[str]) -> None:
    twice = frame.duplicated(keys)
    if twice.any():
        first = ", ".join(str(v) for v in frame.loc[twice, keys].iloc[0])
        raise refused(file, f"two rows are of one {' and '.join(keys)}: {first:.120}")


def _check_known(
    file: Path, frame: pd.DataFrame, keys: list[str], known: pd.MultiIndex, what: str
) -> None:
    strange = ~pd.MultiIndex.from_frame(frame[keys]).isin(known)
    if strange.any():
        first = ", ".join(str(v) for v in frame.loc[strange, keys].iloc[0])
        raise refused(file, f"{what} is not in tokens.parquet: {first:.120}")


def _more(names: pd.Series | pd.Index) -> str:
    rest = names.nunique() - 1
    return f", and {rest:,} more" if rest else ""
