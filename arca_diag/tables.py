"""The tables of a result: a row a token, a row a trajectory, a row a rollout, and noise.

`tokens` has a row a token and checkpoint, `trajectories` a row a completion, checkpoint, signal
and sharpening, `rollouts` a row a completion; `noise` has a row a token of the few completions
that were replayed again. The first holds all that judging needs: other
credit, epsilon or sharpening are applied to it again without a model.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from arca_diag.inputs.rollouts.record import Rollout, hash_ids
from arca_diag.inputs.selection import Selection
from arca_diag.layers import LAYERS
from arca_diag.replay.scores import Replayed, TokenGradients
from arca_diag.shapes import chunks_with_span, padded
from arca_diag.signals import SIGNAL_NAMES, SIGNALS, TokenScores, entropy_drop
from arca_diag.trajectory import COLUMNS

#: Rows that are written at a time: some 30 MB of tokens.
_GROUP_ROWS = 2**17

_KEY = [("checkpoint", pa.string()), ("checkpoint_step", pa.int64())]
_ROLLOUT = [
    ("rollout_id", pa.string()),
    ("rollout_step", pa.int64()),
    ("group_id", pa.string()),
]
TOKENS = pa.schema(
    [
        *_KEY,
        *_ROLLOUT,
        ("position", pa.int32()),
        ("token_id", pa.int64()),
        ("token", pa.string()),
        ("token_class", pa.string()),
        ("counted", pa.bool_()),
        *(
            (name, pa.float64())
            for name in (
                "surprisal",
                "entropy",
                "entropy_reduction",
                "log_ratio",
                "divergence",
                "kl_exact",
                "residual",
                "relative_residual",
                "ref_surprisal",
                "ref_entropy",
                "ref_entropy_reduction",
            )
        ),
        *((f"w_{name}", pa.float64()) for name in SIGNAL_NAMES),
    ]
)
TRAJECTORIES = pa.schema(
    [
        *_KEY,
        *_ROLLOUT,
        ("own_set", pa.bool_()),
        ("fixed_set", pa.bool_()),
        ("n_tokens", pa.int32()),
        ("signal", pa.string()),
        ("sharpening", pa.float64()),
        *(
            (name, pa.string() if undefined is None else pa.float64())
            for name, undefined in COLUMNS.items()
        ),
    ]
)
ROLLOUTS = pa.schema(
    [
        ("rollout_id", pa.string()),
        ("group_id", pa.string()),
        ("cluster", pa.string()),
        ("completion", pa.string()),
        ("rollout_step", pa.int64()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("finish_reason", pa.string()),
        ("ids_exact", pa.bool_()),
        ("n_prompt_tokens", pa.int32()),
        ("n_completion_tokens", pa.int32()),
        ("prompt_text", pa.string()),
        ("completion_text", pa.string()),
    ]
)
#: The same tokens again, under another rounding: what the signals would be from that alone.
NOISE = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("rollout_id", pa.string()),
        ("replica", pa.string()),
        ("position", pa.int32()),
        *((name, pa.float64()) for name in SIGNAL_NAMES),
        ("log_ratio", pa.float64()),
        ("residual_apart", pa.float64()),
        ("relative_residual_apart", pa.float64()),
    ]
)
#: How strongly a token would move the adapter: its true gradient, and the factor of the output.
GRADIENTS = pa.schema(
    [
        ("checkpoint", pa.string()),
        ("rollout_id", pa.string()),
        ("position", pa.int32()),
        ("gradient_norm", pa.float64()),
        ("output_factor", pa.float64()),
    ]
)

#: What the trainer logged, a row a step and quantity, as `inputs.trends` names them.
LOG = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])

#: Of every table, by its name in `Tables`; each lies in a file of that name.
SCHEMAS = {
    "tokens": TOKENS,
    "trajectories": TRAJECTORIES,
    "rollouts": ROLLOUTS,
    "noise": NOISE,
    "gradients": GRADIENTS,
    "layers": LAYERS,
    "log": LOG,
}


def rollout_table(rollouts: Iterable[Rollout]) -> pd.DataFrame:
    """One row a completion. A per-token advantage is given by its mean over counted tokens."""
    rows = [
        {
            "rollout_id": r.id,
            "group_id": r.group_id,
            "cluster": r.cluster,
            "completion": hash_ids(r.completion_ids),
            "rollout_step": r.step,
            "reward": r.reward,
            "advantage": _one_advantage(r),
            "finish_reason": r.finish_reason,
            "ids_exact": r.ids_exact,
            "n_prompt_tokens": len(r.prompt_ids),
            "n_completion_tokens": len(r.completion_ids),
            "prompt_text": r.prompt_text,
            "completion_text": r.completion_text,
        }
        for r in rollouts
    ]
    frame = pd.DataFrame(rows, columns=ROLLOUTS.names)
    frame["rollout_step"] = frame["rollout_step"].astype("Int64")
    return frame


def token_table(
    replayed: Iterable[Replayed],
    steps: dict[str, int | None],
    pieces: Sequence[str] | None,
    classes: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row a token and checkpoint, with every raw signal; weights come with `crediting.judge`.

    Args:
        replayed: What the model said.
        steps: Checkpoint name -> its step.
        pieces: Token id -> its text as the tokenizer writes it; None without a tokenizer.
        classes: Token id -> its class (see `inputs.token_classes`); None without a tokenizer.

    Returns:
        Rows ordered by checkpoint step, rollout step, rollout and position.
    """
    items = _in_order(replayed, steps)
    lengths = _lengths(items)
    rollouts = [r.rollout for r in items]
    ids = np.array([i for r in rollouts for i in r.completion_ids], dtype=np.int64)
    columns: dict[str, object] = {
        "checkpoint": np.repeat(np.array([r.checkpoint for r in items], dtype=object), lengths),
        "checkpoint_step": _steps([steps[r.checkpoint] for r in items], lengths),
        "rollout_id": np.repeat(np.array([r.id for r in rollouts], dtype=object), lengths),
        "rollout_step": _steps([r.step for r in rollouts], lengths),
        "group_id": np.repeat(np.array([r.group_id for r in rollouts], dtype=object), lengths),
        "position": _positions(lengths),
        "token_id": ids,
        "token": None if pieces is None else np.array(pieces, dtype=object)[ids],
        "token_class": None if classes is None else np.array(classes, dtype=object)[ids],
        "counted": _counted(items),
        **_scores(items),
    }
    return pd.DataFrame(columns, columns=[n for n in TOKENS.names if not n.startswith("w_")])


def noise_table(
    replicas: Mapping[str, Iterable[Replayed]],
    steps: Mapping[str, int | None],
    first: Iterable[Replayed] = (),
) -> pd.DataFrame:
    """One row a token, checkpoint and replica, with every raw signal as it came out there.

    `residual_apart` is the L2 norm of the difference of the two residual vectors, where both
    replays kept theirs, else NaN; `relative_residual_apart` is that over the norm of h_ref.

    Args:
        replicas: Name of a replica -> what the model said in it.
        steps: Checkpoint name -> its step.
        first: What the model said at first, of the same completions at least.

    Returns:
        Rows ordered by replica as given, then as in `token_table`; none without a replica.
    """
    shifts = {(r.checkpoint, r.rollout.id): r.shift for r in first if r.shift is not None}
    parts = []
    for name, replayed in replicas.items():
        items = _in_order(replayed, steps)
        apart = [_apart(r, shifts.get((r.checkpoint, r.rollout.id))) for r in items]
        lengths = _lengths(items)
        columns = {
            "checkpoint": np.repeat(np.array([r.checkpoint for r in items], dtype=object), lengths),
            "rollout_id": np.repeat(np.array([r.rollout.id for r in items], dtype=object), lengths),
            "replica": name,
            "position": _positions(lengths),
            **_scores(items),
            "residual_apart": np.concatenate(apart) if apart else np.empty(0),
            "relative_residual_apart": np.concatenate(
                [a / r.ref_norm for a, r in zip(apart, items, strict=True)]
            )
            if apart
            else np.empty(0),
        }
        parts.append(pd.DataFrame(columns, columns=NOISE.names))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=NOISE.names)


def _in_order(replayed: Iterable[Replayed], steps: Mapping[str, int | None]) -> list[Replayed]:
    """By checkpoint step, rollout step and rollout."""
    order = {name: place for place, name in enumerate(steps)}
    return sorted(
        replayed,
        key=lambda r: (
            order[r.checkpoint],
            -1 if r.rollout.step is None else r.rollout.step,
            r.rollout.id,
        ),
    )


def _apart(again: Replayed, shift: np.ndarray | None) -> np.ndarray:
    """How far the residual vectors of two replays lie apart, a number a token."""
    if again.shift is None or shift is None:
        return np.full(len(again.logprob), np.nan)
    return np.asarray(np.linalg.norm(again.shift - shift, axis=1))


def _scores(items: Sequence[Replayed]) -> dict[str, np.ndarray]:
    """Every raw signal, and the reference's, of all tokens of these completions in a row."""
    lengths, counted = _lengths(items), _counted(items)
    flat = {
        name: np.concatenate([getattr(r, name) for r in items]) if items else np.empty(0)
        for name in (
            "logprob",
            "entropy",
            "ref_logprob",
            "ref_entropy",
            "kl_exact",
            "residual",
            "ref_norm",
        )
    }
    columns = {
        "log_ratio": flat["logprob"] - flat["ref_logprob"],
        "ref_surprisal": -flat["ref_logprob"],
        "ref_entropy": flat["ref_entropy"],
    }
    for name in (*SIGNAL_NAMES, "ref_entropy_reduction"):
        columns[name] = np.empty(len(counted))
    for rows, part in _chunks(lengths):
        mask = padded(counted[rows], part, False)
        arrays = {name: padded(values[rows], part, np.nan) for name, values in flat.items()}
        scores = TokenScores(mask=mask, **arrays)
        inside = np.arange(mask.shape[1]) < part[:, None]
        for signal in SIGNALS:
            columns[signal.name][rows] = signal.measure(scores)[inside]
        drop = entropy_drop(scores.ref_entropy, mask)
        columns["ref_entropy_reduction"][rows] = drop[inside]
    return columns


def _lengths(items: Sequence[Replayed]) -> np.ndarray:
    return np.array([len(r.logprob) for r in items], dtype=np.int64)


def _positions(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else np.empty(0)


def _counted(items: Sequence[Replayed]) -> np.ndarray:
    return np.array([m for r in items for m in r.rollout.mask], dtype=bool)


def gradient_table(found: Iterable[TokenGradients]) -> pd.DataFrame:
    """One row a counted token whose gradient was measured, in the order of measuring."""
    parts = [
        pd.DataFrame(
            {
                "checkpoint": one.checkpoint,
                "rollout_id": one.rollout.id,
                "position": one.position,
                "gradient_norm": one.gradient_norm,
                "output_factor": one.output_factor,
            }
        )
        for one in found
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=GRADIENTS.names)


def log_table(points: Iterable[tuple[int, str, float]]) -> pd.DataFrame:
    """One row a step and logged quantity, in the unit that the trainer logged it in."""
    return pd.DataFrame(points, columns=LOG.names).astype(
        {"step": "int64", "name": "object", "value": "float64"}
    )


def memberships(selection: Selection, checkpoints: Iterable[str]) -> pd.DataFrame:
    """Which completions are in which checkpoint's own set, and which in the fixed set.

    Returns:
        Columns `own_set` and `fixed_set`, indexed by checkpoint and rollout_id.
    """
    fixed = {g.id for g in selection.fixed}
    rows = []
    for name in checkpoints:
        own = {g.id for g in selection.own[name]}
        for group in selection.for_checkpoint(name):
            rows += [(name, r.id, group.id in own, group.id in fixed) for r in group.rollouts]
    frame = pd.DataFrame(rows, columns=["checkpoint", "rollout_id", "own_set", "fixed_set"])
    return frame.set_index(["checkpoint", "rollout_id"])


def saved_memberships(trajectories: pd.DataFrame) -> pd.DataFrame:
    """The same, from a saved trajectories.parquet."""
    columns = ["checkpoint", "rollout_id", "own_set", "fixed_set"]
    return trajectories[columns].drop_duplicates().set_index(["checkpoint", "rollout_id"])


def write_parquet(frame: pd.DataFrame, schema: pa.Schema, sink: BinaryIO) -> None:
    """Write a table as parquet, with exactly the columns and types of its schema.

    A group of rows at a time: of a large table no second copy is held.
    """
    # Of names a dictionary in each group is worth its bytes, of numbers it is not.
    names = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=names) as writer:
        for start in range(0, max(1, len(frame)), _GROUP_ROWS):
            part = frame.iloc[start : start + _GROUP_ROWS]
            table = pa.Table.from_pandas(part, schema=schema, preserve_index=False)
            writer.write_table(table.replace_schema_metadata(None))


def to_parquet(frame: pd.DataFrame, schema: pa.Schema) -> bytes:
    """The same in memory."""
    sink = io.BytesIO()
    write_parquet(frame, schema, sink)
    return sink.getvalue()


@dataclass(frozen=True, kw_only=True)
class Tables:
    """The tables of a result."""

    tokens: pd.DataFrame
    trajectories: pd.DataFrame
    rollouts: pd.DataFrame
    noise: pd.DataFrame = field(default_factory=lambda: noise_table({}, {}))
    gradients: pd.DataFrame = field(default_factory=lambda: gradient_table([]))
    layers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=LAYERS.names))
    log: pd.DataFrame = field(default_factory=lambda: log_table([]))

    def writers(self) -> dict[str, Callable[[BinaryIO], None]]:
        """What writes each file of the result folder; none of gradients, layers, log if empty."""
        optional = ("gradients", "layers", "log")
        found = {
            f"{name}.parquet": (getattr(self, name), schema)
            for name, schema in SCHEMAS.items()
            if name not in optional or len(getattr(self, name))
        }
        return {name: partial(write_parquet, *table) for name, table in found.items()}

    def to_parquet(self) -> dict[str, bytes]:
        """The same files in memory."""
        files = {}
        for name, write in self.writers().items():
            sink = io.BytesIO()
            write(sink)
            files[name] = sink.getvalue()
        return files


def _one_advantage(rollout: Rollout) -> float | None:
    if isinstance(rollout.advantage, tuple):
        counted = [a for a, m in zip(rollout.advantage, rollout.mask, strict=True) if m]
        return float(np.mean(counted)) if counted else None
    return rollout.advantage


def _steps(values: list[int | None], lengths: np.ndarray) -> pd.Series:
    return (
        pd.Series(pd.array(values, dtype="Int64")).repeat(lengths.tolist()).reset_index(drop=True)
    )


def completion_starts(tokens: pd.DataFrame) -> np.ndarray:
    """Where each completion's rows begin: its first token has position 0."""
    return np.flatnonzero(tokens["position"].to_numpy() == 0)


def _chunks(lengths: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    for rows, part, _ in chunks_with_span(lengths):
        yield rows, part
