"""A TRL reward function that rewards nothing and records the exact token ids of a run.

TRL writes completions as text with the special tokens stripped, from which the ids cannot
always be recovered. Its public `log_extra` hook adds columns to that table, and a reward
function is the place that has both the hook and the ids. This module imports no TRL.
"""

from collections.abc import Callable
from typing import Any

IDS_COLUMN = "arca_completion_ids"
STEP_COLUMN = "arca_gen_step"


def recorder() -> Callable[..., list[None]]:
    """Build a reward function for TRL >= 1.0 that adds two columns to the completions table.

    `arca_completion_ids` holds each completion's ids as sampled, the closing end-of-sequence
    token included; `arca_gen_step` the optimizer steps that the policy had done when it
    sampled them. Every reward is None, which TRL leaves out of the sum, so training is
    unchanged. With `reward_weights`, give it a weight of 0.

        GRPOTrainer(..., reward_funcs=[exact_match, recorder()],
                    args=GRPOConfig(..., log_completions=True, logging_steps=1))

    Returns:
        A reward function named `arca_recorder`; TRL names its (empty) reward column after it.
    """

    def arca_recorder(
        completion_ids: list[list[int]],
        log_extra: Callable[[str, list[Any]], None],
        trainer_state: Any,
        **_: Any,
    ) -> list[None]:
        count = len(completion_ids)
        log_extra(IDS_COLUMN, [list(ids) for ids in completion_ids])
        log_extra(STEP_COLUMN, [trainer_state.global_step] * count)
        return [None] * count

    return arca_recorder
