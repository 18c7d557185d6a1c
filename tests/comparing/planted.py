"""Small results with known figures, whole with their tables, made without a model."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from arca_diag import tables
from arca_diag.redaction import pseudonym
from arca_diag.results import CheckpointInfo, Measurement, Report, Side
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.verdict import CLASSES
from tests.test_results import measurement, report, verdict

VIEWS = (("on-policy", "own_set"), ("fixed-set", "fixed_set"))
FIGURES = ("gini_corrected", "effn_corrected", "token_share_90", "inherited_tv")


def noise(seed: int, prompts: int = 12, each: int = 4, scale: float = 0.02) -> np.ndarray:
    """Numbers a completion that vary between prompts and within."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, scale, (prompts, 1)) + rng.normal(0, scale, (prompts, each))


def over_prompts(values: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """Mean over rows and Student's limits, as SciPy has them."""
    means = np.array([np.mean(row[~np.isnan(row)]) for row in values if not np.isnan(row).all()])
    if not len(means):
        return None, None, None
    if len(means) < 2:
        return float(means[0]), None, None
    low, high = stats.t.interval(0.95, len(means) - 1, means.mean(), stats.sem(means))
    if math.isnan(low):  # SciPy's of no spread
        low = high = means.mean()
    return float(means.mean()), float(low), float(high)


def result(
    folder: Path,
    gini: np.ndarray | Mapping[str, np.ndarray] | None = None,
    *,
    steps: Sequence[int] = (60,),
    sharpening: float = 1.0,
    name: str = "run",
    of: str = "completion",
    salt: bytes | None = None,
    n_tokens: int | np.ndarray = 20,
    with_tables: bool = True,
    regimes: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    **given: Any,
) -> Path:
    """A result whose every checkpoint and view has the same figures.

    Args:
        folder: Where.
        gini: G^ a completion, (prompt, completion); of every signal, or of those named. The other
            figures follow from it.
        steps: Of the checkpoints.
        sharpening: The configured power.
        name: Of the run.
        of: What the completions' hashes begin with: the same ones where it is the same.
        salt: Names as `--redact-text` hides them.
        n_tokens: Counted tokens of each completion.
        with_tables: Leave report.json alone without.
        regimes: Signal -> regime.
        options: Of the scan.
        given: Fields of the report.
    """
    plain = noise(0) + 0.5
    if isinstance(gini, np.ndarray):
        gini = dict.fromkeys(SIGNAL_NAMES, gini)
    values = {signal: (gini or {}).get(signal, plain) for signal in SIGNAL_NAMES}
    shape = next(iter(values.values())).shape
    values = {s: v if v.shape == shape else np.full(shape, 0.5) for s, v in values.items()}
    frames = _tables(values, steps, sharpening, of, np.broadcast_to(n_tokens, shape))
    if salt is not None:
        named = ("rollout_id", "group_id", "cluster", "completion")
        frames = {
            k: f.assign(
                **{c: [pseudonym(str(v), salt) for v in f[c]] for c in named if c in f.columns}
            )
            for k, f in frames.items()
        }
    schemas = {
        "tokens": tables.TOKENS,
        "trajectories": tables.TRAJECTORIES,
        "rollouts": tables.ROLLOUTS,
    }
    files = {f"{k}.parquet": tables.to_parquet(frames[k], s) for k, s in schemas.items()}
    asked = {"credit": "uniform", "sharpening": sharpening, "epsilon": 1e-8, "device": "cpu"}
    asked |= {"redact_text": salt is not None, **(options or {})}
    made = report()
    provenance = made.provenance.model_copy(
        update={"options": asked, "base": {"name": "base", "sha256": "ab" * 32}}
    )
    fields: dict[str, Any] = {
        "provenance": provenance,
        "run": made.run.model_copy(
            update={
                "name": name,
                "checkpoints": [
                    CheckpointInfo(name=f"checkpoint-{s}", step=s, measured=True) for s in steps
                ],
            }
        ),
        "replay_fidelity": [],
        "findings": [],
        "thresholds": [],
        "what_if": [],  # of a checkpoint that these have not
        "measurements": [m for s in steps for m in _measurements(values, s, sharpening)],
        "verdicts": _verdicts(steps, sharpening, regimes or {}),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    whole: Report = made.model_copy(update=fields | given)
    folder.mkdir()
    (folder / "report.json").write_text(whole.to_json(), "utf-8")
    for file, data in files.items() if with_tables else ():
        (folder / file).write_bytes(data)
    return folder


def _per_completion(gini: np.ndarray, figure: str) -> np.ndarray:
    """Other figures that follow from G^: where it is undefined, so are they."""
    return {
        "gini_corrected": gini,
        "effn_corrected": 1 - gini,
        "token_share_90": 0.9 - gini / 2,
        "inherited_tv": gini / 4,
        "mean": 2 * gini,
    }[figure]


def _measurements(values: Mapping[str, np.ndarray], step: int, power: float) -> list[Measurement]:
    out = []
    for view, _ in VIEWS:
        for signal, gini in values.items():
            for figure in (*FIGURES, "mean"):
                value, low, high = over_prompts(_per_completion(gini, figure))
                out.append(
                    measurement(
                        checkpoint=step,
                        view=view,
                        signal=signal,
                        sharpening=None if figure == "mean" else power,
                        name=figure,
                        value=value,
                        low=low,
                        high=high,
                        n_clusters=len(gini),
                        reason="every raw score is exactly zero" if value is None else None,
                    )
                )
    return out


def _verdicts(steps: Sequence[int], power: float, regimes: Mapping[str, str]) -> list[Any]:
    assert set(regimes.values()) <= {*CLASSES, "inconclusive"}
    return [
        verdict(
            checkpoint=step,
            view=view,
            signal=signal,
            sharpening=power,
            regime=regimes.get(signal, "middle"),
            without_ends="middle",
            side=Side(regime="middle", value=0.9, low=0.8, high=1.0),
            n_clusters=12,
            causes=[],
            settled_by=None,
        )
        for step in steps
        for view, _ in VIEWS
        for signal in SIGNAL_NAMES
    ]


def _tables(
    values: Mapping[str, np.ndarray],
    steps: Sequence[int],
    power: float,
    of: str,
    n_tokens: np.ndarray,
) -> dict[str, pd.DataFrame]:
    prompts, each = next(iter(values.values())).shape
    cells = [(p, k) for p in range(prompts) for k in range(each)]
    rollouts = pd.DataFrame(
        {
            "rollout_id": [f"r/{p}/{k}" for p, k in cells],
            "group_id": [f"g/{p}" for p, _ in cells],
            "cluster": [f"prompt {p}" for p, _ in cells],
            "completion": [f"{of} {p} {k}" for p, k in cells],
        }
    ).reindex(columns=tables.ROLLOUTS.names)
    keys = ["rollout_id", "group_id"]
    trajectories, tokens = [], []
    for step in steps:
        at = {"checkpoint": f"checkpoint-{step}", "checkpoint_step": step}
        for signal, gini in values.items():
            flat = gini.ravel()
            figures = {f: _per_completion(flat, f) for f in FIGURES}
            sets = {"own_set": True, "fixed_set": True, "signal": signal, "sharpening": power}
            rows = rollouts[keys].assign(**at, **sets, n_tokens=n_tokens.ravel(), **figures)
            trajectories.append(rows)
        means = {signal: _per_completion(gini.ravel(), "mean") for signal, gini in values.items()}
        one = rollouts[keys].assign(**at, counted=True, position=0, **means)
        # A prompt token, which does not count, and one on either side of the mean.
        spread = {signal: means[signal] + 0.5 for signal in means}
        less = {signal: means[signal] - 0.5 for signal in means}
        for position, (counted, shifted) in enumerate(((True, spread), (True, less), (False, {}))):
            tokens.append(one.assign(position=position, counted=counted, **shifted))
    return {
        "rollouts": rollouts,
        "trajectories": _joined(trajectories, tables.TRAJECTORIES.names),
        "tokens": _joined(tokens, tables.TOKENS.names),
    }


def _joined(parts: list[pd.DataFrame], names: list[str]) -> pd.DataFrame:
    return pd.concat(parts).reindex(columns=names) if parts else pd.DataFrame(columns=names)
