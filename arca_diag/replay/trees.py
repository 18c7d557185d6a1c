"""Sequences that begin alike, as a tree of tokens in which every distinct prefix stands once.

A token sees those before it and nothing else, so what the model says at the end of a prefix does
not depend on what follows it: completions of one prompt can share the prompt, and each other's
beginnings, in one row. There a token attends to its ancestors alone, at its own place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

#: What a token costs in everything but attention, in pairs of a token and one that it attends to:
#: about 3000 in the smallest models, more in larger ones, less where attention is slow.
_PAIRS_A_TOKEN = 1024


@dataclass(frozen=True, kw_only=True)
class Row:
    """Tokens in preorder: a node stands before its descendants, and they right behind it.

    Attributes:
        ids: Token of each node.
        depth: Its place in its sequence.
        end: One past its last descendant.
        paths: For every sequence, in the order in which they came, its nodes.
    """

    ids: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    end: list[int] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)

    @property
    def is_chain(self) -> bool:
        """Whether every node is an ancestor of all that follow: plain causal attention."""
        return self.depth[-1] + 1 == len(self.ids)


def grow(sequences: Sequence[Sequence[int]], *, longest: int) -> list[Row]:
    """Lay sequences out in as few rows as pays, neighbours in their order sharing a beginning.

    Rows that hold much make attention dear, which is paid for every pair of tokens in a row: a
    sequence joins the row of the one before it where what they share saves more than that.

    Args:
        sequences: In an order that puts equal beginnings side by side, such as the sorted one.
        longest: Nodes that a row should not exceed; one sequence alone may.

    Returns:
        The rows; their paths together are the sequences in order.
    """
    rows: list[Row] = []
    before: Sequence[int] = ()
    for sequence in sequences:
        shared = _common(before, sequence)
        if not rows or not _pays(rows[-1], shared, len(sequence), longest):
            rows.append(Row())
            shared = 0
        _add(rows[-1], sequence, shared)
        before = sequence
    return rows


def _pays(row: Row, shared: int, length: int, longest: int) -> bool:
    """Whether one row with `length - shared` nodes more costs less than two rows.

    With n nodes, S to come of which L are shared, and K pairs a token:
    (n + S - L)^2 + (S - L) K <= n^2 + S^2 + S K.
    """
    more = length - shared
    fits = len(row.ids) + more <= longest
    return fits and 2 * more * (len(row.ids) - shared) <= shared * (_PAIRS_A_TOKEN + shared)


def _add(row: Row, sequence: Sequence[int], shared: int) -> None:
    path = row.paths[-1][:shared] if row.paths else []
    first = len(row.ids)
    path += range(first, first + len(sequence) - shared)
    row.ids.extend(sequence[shared:])
    row.depth.extend(range(shared, len(sequence)))
    row.end.extend([0] * (len(sequence) - shared))
    for node in path:  # its ancestors have grown; a node off the path has ended
        row.end[node] = len(row.ids)
    row.paths.append(path)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common beginning."""
    shared = min(len(one), len(other))
    return next((i for i in range(shared) if one[i] != other[i]), shared)
