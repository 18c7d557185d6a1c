"""A sequence with a loss mask -> prompt and completion, for trainers that keep no such border."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from arca_diag.inputs.rollouts.record import Fault


@dataclass(frozen=True)
class Split:
    """One sequence, cut where its first sampled token begins and its last one ends.

    What stands between sampled tokens, turns of a user or a tool, stays in the completion and
    does not count.

    Attributes:
        prompt: Everything before the first sampled token.
        completion: From there to the last sampled token.
        mask: True where a completion token counts.
        start: Where the completion begins in the sequence.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    mask: tuple[bool, ...]
    start: int

    def logged(self, values: Sequence[float] | None) -> tuple[float, ...] | None:
        """The completion's part of what was logged for the sequence; NaN where no token counts.

        Trainers write 0 there, which is no log-probability of anything.
        """
        if values is None:
            return None
        part = values[self.start : self.start + len(self.completion)]
        return tuple(v if m else math.nan for v, m in zip(part, self.mask, strict=True))

    def credit(self, values: Sequence[float] | None) -> tuple[float, ...] | None:
        """The same for advantages; None where one of a counted token is missing: it is not 0.

        Raises:
            Fault: One of a counted token is infinite.
        """
        found = self.logged(values)
        counted = [v for v, m in zip(found or (), self.mask, strict=False) if m]
        if any(math.isinf(v) for v in counted):
            raise Fault("advantages must hold finite numbers only")
        return None if any(math.isnan(v) for v in counted) else found


def split(
    ids: Sequence[int], sampled: Sequence[bool], counted: Sequence[bool] | None = None
) -> Split | None:
    """Cut a sequence.

    Args:
        ids: All its tokens.
        sampled: True where the policy sampled the token.
        counted: True where it counts, if not all that were sampled do.

    Returns:
        None if no token counts.

    Raises:
        Fault: The first token is sampled: it has nothing to follow.
    """
    counted = sampled if counted is None else counted
    if not any(counted):
        return None
    start = next(i for i, s in enumerate(sampled) if s)
    stop = next(i for i in range(len(sampled), 0, -1) if sampled[i - 1])
    if start == 0:
        raise Fault("the first token is a sampled one: it has nothing to follow")
    return Split(
        prompt=tuple(ids[:start]),
        completion=tuple(ids[start:stop]),
        mask=tuple(counted[start:stop]),
        start=start,
    )
