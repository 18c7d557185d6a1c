"""A whole replay: planned once, and planned smaller where the device runs out of memory."""

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

import torch

from arca_diag.errors import ArcaError
from arca_diag.progress import Progress
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Batch, Work, plan
from arca_diag.replay.forward import replay
from arca_diag.replay.scores import Replayed
from arca_diag.replay.sharing import can_share
from arca_diag.replay.units import Units


@dataclass(frozen=True, kw_only=True)
class Passes:
    """What was replayed, and how.

    Attributes:
        scored: Every completion under every checkpoint that was asked for.
        batches: What went through the model together.
        batch_tokens: Padded tokens a batch, as they were in the end.
        shared: Whether completions shared prompts.
    """

    scored: list[Replayed]
    batches: list[Batch]
    batch_tokens: int
    shared: bool


def replay_all(
    model: AdaptedModel,
    work: list[Work],
    *,
    batch_tokens: int,
    share: bool,
    temperature: float,
    progress: Progress,
    keep: Collection[tuple[str, str]] = (),
    units: Units | None = None,
) -> Passes:
    """Replay everything; where the device's memory gives out, the rest in batches half as large.

    Args:
        model: The base with every needed adapter resident.
        work: What to replay under what.
        batch_tokens: Padded tokens a batch.
        share: Let completions share prompts, where the architecture allows it.
        temperature: Logits are divided by it.
        progress: Hears of every pass.
        keep: Checkpoints and rollouts, by name, whose shifts of the hidden state are handed on.
        units: Where finished passes are kept, and looked for before they are run.

    Raises:
        ArcaError: Half is too much as well.
    """
    longest = max((len(w.rollout.prompt_ids + w.rollout.completion_ids) for w in work), default=0)
    share = share and bool(work) and can_share(model, longest)
    scored: list[Replayed] = []

    def run(batches: list[Batch]) -> bool:
        found = replay(
            model, batches, temperature=temperature, progress=progress, keep=keep, units=units
        )
        try:
            scored.extend(found)
        except torch.OutOfMemoryError:
            return False
        return True

    batches = plan(work, batch_tokens, share=share)
    if not run(batches):
        batch_tokens = max(1, batch_tokens // 2)
        again = plan(_left(work, scored), batch_tokens, share=share)
        batches += again
        if not run(again):
            raise ArcaError(
                f"the device has no memory for batches of {batch_tokens:,} tokens, which is half "
                "of what was tried first",
                hint="give less with --batch-tokens, or use --dtype bfloat16",
            )
    return Passes(scored=scored, batches=batches, batch_tokens=batch_tokens, shared=share)


def _left(work: list[Work], scored: list[Replayed]) -> list[Work]:
    done = {(r.checkpoint, r.rollout.id) for r in scored}
    left = [
        dataclasses.replace(
            w, checkpoints=tuple(c for c in w.checkpoints if (c, w.rollout.id) not in done)
        )
        for w in work
    ]
    return [w for w in left if w.checkpoints]
