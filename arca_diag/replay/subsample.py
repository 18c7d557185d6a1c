"""Which completions of a checkpoint are looked at more closely, where all would cost too much."""

import hashlib
from collections.abc import Iterable

from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.selection import Group, Selection

#: Prompts to spread over, if there are so many: below it, nothing is judged.
PROMPTS = 8


def subsample(selection: Selection, checkpoint: str, *, tokens: int = 0) -> tuple[Rollout, ...]:
    """Whole completions of the checkpoint's own set, of the fixed set where it has none.

    Every prompt gives one completion before any gives a second. Which, says a fixed hash of
    their names, so that neither a seed nor the order of files moves the choice.

    Args:
        selection: The chosen groups, their completions loaded.
        checkpoint: Whose completions.
        tokens: Completions are taken until they count so many tokens and come from `PROMPTS`
            prompts, or there are no more. With 0: one of each of up to `PROMPTS` prompts.
    """
    own = _spread(selection.own[checkpoint])
    chosen: list[Rollout] = []
    prompts: set[str] = set()
    counted = 0
    ordered = own or _spread(selection.fixed)
    enough = min(PROMPTS, len({r.cluster for r in ordered}))
    for rollout in ordered:
        if counted >= tokens and len(prompts) >= enough:
            break
        chosen.append(rollout)
        prompts.add(rollout.cluster)
        counted += rollout.n_counted
    return tuple(chosen)


def _spread(groups: Iterable[Group]) -> list[Rollout]:
    """Completions that count a token: the first of every prompt, the second of every prompt, ..."""
    by_prompt: dict[str, list[Rollout]] = {}
    for rollout in sorted((r for g in groups for r in g.rollouts), key=lambda r: fixed_hash(r.id)):
        if rollout.n_counted:
            by_prompt.setdefault(rollout.cluster, []).append(rollout)
    placed = [
        (turn, fixed_hash(prompt), rollout)
        for prompt, rollouts in by_prompt.items()
        for turn, rollout in enumerate(rollouts)
    ]
    return [rollout for *_, rollout in sorted(placed, key=lambda item: item[:2])]


def fixed_hash(identity: str) -> str:
    """A number for a name, as text that sorts: random to look at and always the same."""
    return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
