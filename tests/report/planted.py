"""Results with planted tokens: what a scan would leave of completions written here."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from arca_diag import crediting
from arca_diag.results import CheckpointInfo, Report
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables
from tests.test_results import report

RAW = (*SIGNAL_NAMES, "log_ratio", "ref_surprisal", "ref_entropy", "ref_entropy_reduction")


def planted(
    completions: Sequence[Sequence[str | None]],
    *,
    steps: Sequence[int] = (2, 4),
    classes: dict[str, str] | None = None,
    prompt: str | None = "what is it?",
    on_policy: Sequence[int] = (),
    masked: Sequence[tuple[int, int]] = (),
    sharpening: float = 1.0,
    seed: int = 0,
    **given: Any,
) -> tuple[Report, Tables]:
    """A report and its tables.

    Args:
        completions: The pieces of each; `r0`, `r1` and so on are their names.
        steps: Of the checkpoints.
        classes: Piece -> class; all others are words.
        prompt: Of all of them.
        on_policy: Those that the last checkpoint alone replays; all others are of the fixed set.
        masked: Completion and position of tokens that do not count.
        sharpening: The configured power.
        seed: Of the values.
        given: Other fields of the report.
    """
    rng = np.random.default_rng(seed)
    classes = classes or {}
    rows, rollouts, sets = [], [], []
    for number, pieces in enumerate(completions):
        rollouts.append(
            {
                "rollout_id": f"r{number}",
                "group_id": f"g{number // 2}",
                "cluster": f"c{number // 2}",
                "completion": f"{hash(tuple(pieces)) & 0xFFFFFF:x}{number}",
                "rollout_step": 3,
                "reward": float(number % 2),
                "advantage": number % 2 - 0.5,
                "finish_reason": "stop",
                "ids_exact": True,
                "n_prompt_tokens": 4,
                "n_completion_tokens": len(pieces),
                "prompt_text": prompt,
                "completion_text": "".join(p or "" for p in pieces),
            }
        )
    for step in steps:
        for number, pieces in enumerate(completions):
            if number in on_policy and step != steps[-1]:
                continue
            name = f"checkpoint-{step}"
            fixed = number not in on_policy
            sets.append((name, f"r{number}", not fixed, fixed))
            # Heavy tails, and tokens without any of it.
            scores = rng.lognormal(sigma=2, size=(len(pieces), len(RAW)))
            scores *= rng.random(scores.shape) > 0.1
            for position, piece in enumerate(pieces):
                rows.append(
                    {
                        "checkpoint": name,
                        "checkpoint_step": step,
                        "rollout_id": f"r{number}",
                        "rollout_step": 3,
                        "group_id": f"g{number // 2}",
                        "position": position,
                        "token_id": None if piece is None else 1000 + sum(map(ord, piece[:50])),
                        "token": piece,
                        "token_class": classes.get(piece or "", "word"),
                        "counted": (number, position) not in masked,
                        **dict(zip(RAW, scores[position], strict=True)),
                    }
                )
    members = pd.DataFrame(sets, columns=["checkpoint", "rollout_id", "own_set", "fixed_set"])
    tokens, trajectories = crediting.judge(
        pd.DataFrame(rows),
        members.set_index(["checkpoint", "rollout_id"]),
        pd.DataFrame(rollouts),
        epsilon=1e-8,
        sharpening=sharpening,
    )
    whole = report(**given)
    infos = [CheckpointInfo(name=f"checkpoint-{s}", step=s, measured=True) for s in steps]
    options = {
        **whole.provenance.options,
        "sharpening": sharpening,
        "epsilon": 1e-8,
        "credit": "uniform",
        "credit_source": "stock trainers weight tokens evenly",
    }
    whole = whole.model_copy(
        update={
            "run": whole.run.model_copy(update={"checkpoints": infos}),
            "provenance": whole.provenance.model_copy(
                update={"options": options, "base": {"name": "a base", "sha256": "00" * 32}}
            ),
        }
    )
    frames = Tables(tokens=tokens, trajectories=trajectories, rollouts=pd.DataFrame(rollouts))
    return whole, frames
