"""Whole results without a model, judged as a scan judges them: what pictures are drawn from."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from arca_diag import judging
from arca_diag.config import ScanConfig
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.layers import LAYERS
from arca_diag.replay.scores import Replayed
from arca_diag.results import Report
from arca_diag.tables import Tables, log_table, rollout_table, token_table
from tests.test_results import report

#: As a tokenizer may write them.
PIECES = ("0", "1", "\u0120the", "=", "\u010a", "<|end|>")
KINDS = ("digit", "digit", "word", "punctuation", "whitespace", "special")

#: Every picture of a result that has all, in reading order.
ALL = (
    "trend-on-policy",
    "trend-fixed-set",
    "regime-map",
    "lorenz",
    "residual",
    "agreement",
    "classes",
    "positions",
    "types",
    "layers",
    "rewards",
)


def result(
    steps: Sequence[int | None] = (10, 20),
    *,
    prompts: int = 9,
    each: int = 4,
    length: int = 12,
    pieces: Sequence[str] | None = PIECES,
    logged: bool = True,
    layered: bool = True,
    rewards: bool = True,
    own: bool = True,
    names: Sequence[str] | None = None,
    sharpening: float = 1.0,
) -> tuple[Report, Tables]:
    """A result of these checkpoints; the adapter makes credit sparser from one to the next.

    Prompts differ in how many completions they have: a mean over prompts is none over completions.
    """
    names = names or [f"checkpoint-{step}" for step in steps]
    by_name = dict(zip(names, steps, strict=True))
    rng = np.random.default_rng(0)
    fixed = [
        _rollout(rng, f"f{p}/{n}", p, None, length, rewards)
        for p in range(prompts)
        for n in range(each + p % 2)
    ]
    replayed, rows = [], []
    rollouts = list(fixed)
    for place, (name, step) in enumerate(by_name.items()):
        its = [
            _rollout(rng, f"{name}-{p}/{n}", p, step, length, rewards)
            for p in range(prompts if own else 0)
            for n in range(each + p % 2)
        ]
        rollouts += its
        for one in (*its, *fixed):
            replayed.append(_scores(rng, one, name, place))
            rows.append((name, one.id, one in its, one in fixed))
    members = pd.DataFrame(rows, columns=["checkpoint", "rollout_id", "own_set", "fixed_set"])
    frames = Tables(
        tokens=token_table(replayed, by_name, pieces, None if pieces is None else KINDS),
        trajectories=pd.DataFrame(),
        rollouts=rollout_table(rollouts),
        layers=_layers(by_name) if layered else pd.DataFrame(columns=LAYERS.names),
        log=log_table(_log([s for s in steps if s is not None]) if logged else []),
    )
    config = ScanConfig.model_validate({"run": "run", "sharpening": sharpening})
    found = judging.judge(frames, members.set_index(["checkpoint", "rollout_id"]), by_name, config)
    base = report()
    options = dict(base.provenance.options) | {"sharpening": sharpening}
    made = base.model_copy(
        update={
            "provenance": base.provenance.model_copy(update={"options": options}),
            "thresholds": list(config.cuts),
            **found.parts(),
        }
    )
    return made, dataclasses.replace(found.frames)


def _rollout(
    rng: np.random.Generator, name: str, prompt: int, step: int | None, length: int, rewards: bool
) -> Rollout:
    n = int(rng.integers(length // 2, length + 1))
    ids = (*rng.integers(0, len(PIECES) - 1, n - 1).tolist(), len(PIECES) - 1)
    reward = float(rng.integers(0, 2)) if prompt else 1.0
    return Rollout(
        id=name,
        group_id=name.split("/")[0],
        prompt_ids=(prompt,),
        completion_ids=ids,
        mask=(True,) * n,
        prompt_text=f"prompt {prompt}",
        completion_text=None,
        step=step,
        reward=reward if rewards else None,
        advantage=None,
        finish_reason="stop",
        ids_exact=True,
    )


def _scores(rng: np.random.Generator, one: Rollout, name: str, place: int) -> Replayed:
    n = len(one.completion_ids)
    logprob, entropy = -(rng.exponential(size=n) ** (1 + place)), rng.exponential(size=n)
    return Replayed(
        rollout=one,
        checkpoint=name,
        logprob=logprob,
        entropy=entropy ** (1 + place),
        ref_logprob=logprob * rng.uniform(0.5, 1, n),
        ref_entropy=entropy,
        kl_exact=rng.exponential(size=n) * 0.1,
        residual=20 + 4 * rng.random(n) - 2 * logprob.clip(-4),
        ref_norm=rng.uniform(50, 60, n),
    )


def _layers(steps: dict[str, int | None]) -> pd.DataFrame:
    rows = [
        {
            "checkpoint": name,
            "checkpoint_step": step,
            "layer": layer,
            "residual_mean": (place + 1) * (layer + 1.0),
            "residual_low": (place + 1) * (layer + 0.5),
            "residual_high": (place + 1) * (layer + 1.5),
            "relative_residual_mean": 0.1 * (place + 1) * (layer + 1.0),
            "update_norm": 0.0 if layer in (-1, 4) else 0.5,
            "n_clusters": 8,
            "n_tokens": 80,
        }
        for place, (name, step) in enumerate(steps.items())
        for layer in range(-1, 5)
    ]
    return pd.DataFrame(rows, columns=LAYERS.names).astype({"checkpoint_step": "Int64"})


def _log(steps: Sequence[int]) -> list[tuple[int, str, float]]:
    last = max(steps, default=0)
    return [
        (step, name, scale * step / max(1, last))
        for name, scale in (
            ("reward", 1.0),
            ("entropy", 2.0),
            ("length", 30.0),
            ("learning rate", 1e-6),
        )
        for step in range(1, last + 1)
    ]
