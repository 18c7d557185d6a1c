"""Whether what kind of token it is, or where it stands, gives the credit whatever the task.

Tokens of all completions stand in flat arrays here, completion after completion, for a label
(the token's type, its class, its place) is looked up across completions. Weights sum to 1 in each
completion. The null hands each completion's weights to its own tokens at random: shares of
credit are then shares of tokens on average, so a lift of 1 is exactly what chance gives.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int

from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean

#: Counted tokens below which a completion explains nothing.
MIN_TOKENS = 5

#: Total variation from even credit below which there is nothing to explain.
_EVEN = 0.01

#: Places: the first token, the last, and tenths of the way for those between.
POSITIONS = ("first", *(f"tenth-{n}" for n in range(1, 11)), "last")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which completion a token is of, and which prompt a completion.

    Attributes:
        completion: Of each token, from 0 and ascending; each has at least one token.
        prompt: Of each completion, from 0.
    """

    completion: Int[np.ndarray, " token"]
    prompt: Int[np.ndarray, " completion"]

    @cached_property
    def n_tokens(self) -> Int[np.ndarray, " completion"]:
        """T of each completion."""
        return np.bincount(self.completion, minlength=len(self.prompt))


def positions(layout: Layout) -> Int[np.ndarray, " token"]:
    """The place of each token, as an index into `POSITIONS`."""
    n = layout.n_tokens
    starts = np.concatenate([[0], np.cumsum(n)[:-1]]).astype(int)
    place = np.arange(len(layout.completion)) - starts[layout.completion]
    length = n[layout.completion]
    tenth = 1 + np.minimum(10 * place // np.maximum(length, 1), 9)
    last = np.where(place == length - 1, len(POSITIONS) - 1, tenth)
    return np.where(place == 0, 0, last)


def explained(
    weights: Float[np.ndarray, " token"],
    labels: Int[np.ndarray, " token"],
    layout: Layout,
) -> Float[np.ndarray, " completion"]:
    r"""How far a label, learned on other prompts, goes from even credit to this one.

    A table of labels is learned for each prompt from all others: with S_{kv} the mean of T w_t
    over the tokens of prompt k that have label v, and n the prompts among the others with v,

        m(v) = (1 + \sum_k S_{kv}) / (1 + n),

    where the ones pull labels that few prompts have towards even credit; a label that no other
    prompt has gets 1. The prediction is p_t = m(v_t) / \sum m, and with TV(w, u) the total
    variation from even credit,

        1 - TV(w, p) / TV(w, u).

    1 where the label alone gives the credit, about 0 or below where it says nothing of it.

    Where answers are nearly one text on all prompts, type, place and context are the same thing,
    and types and places explain the credit together, whatever it goes by: that is a property of
    the answers. It shows in the `overlap` of even credit, which is then near 1. A label need not
    be the reason either: where a type always stands first, both type and place explain it.

    Args:
        weights: Credit.
        labels: From 0.
        layout: Of the tokens.

    Returns:
        A number <= 1, dimensionless; NaN below `MIN_TOKENS` tokens, where the credit is within
        .01 of even in total variation, and with fewer than two prompts.
    """
    return _learn(weights, labels, layout).explains()


def explained_mean(
    weights: Float[np.ndarray, " token"],
    labels: Int[np.ndarray, " token"],
    layout: Layout,
) -> Estimate:
    r"""Mean over prompts of `explained`, with its 95% interval over prompts.

    All prompts are predicted from nearly one table, so its error is common to their values and
    does not show in how these differ: Student's interval on them passes a cut at the truth in up
    to .12 of runs, at 32 prompts too. The jackknife leaves a prompt out of table and mean alike.
    With the n pseudo-values n m - (n - 1) m_{-k} and their standard deviation s,

        m - t_{n-1, .975} s / \sqrt{n}   and   M + t_{n-1, .975} s / \sqrt{n},

    where M >= m is the mean with each prompt predicted from a table that it is in itself, without
    the ones. A table of few prompts knows a label less well than one of the whole population, so
    m errs low; M knows the prompt's own chance as well, and errs high.

    Simulated with the truth (the share that the table of a whole population explains) at .5 and 8
    completions a prompt (`make bench-coverage`): the lower limit is above it in up to .09 of runs
    at 8 prompts, and in up to .035 from 12 on, most where prompts differ so much that some go by
    the label alone. The cause is not called below 16, and at a third of the p-value. The value is
    .03, .01 and .005 low at 8, 16 and 32 prompts, and lower where labels are many.

    Args:
        weights: Credit.
        labels: From 0.
        layout: Of the tokens.

    Returns:
        Its clusters are the prompts that `explained` is defined in. No limits below three prompts
        in the table, or two that it is defined in.

    Source:
        Tukey (1958), Annals of Mathematical Statistics 29:614, on the jackknife.
    """
    table = _learn(weights, labels, layout)
    values = table.explains()
    itself = cluster_mean(_learn(weights, labels, layout, of_itself=True).explains(), layout.prompt)
    whole = cluster_mean(values, layout.prompt)
    prompts = np.unique(layout.prompt[~np.isnan(values)])
    left = [
        cluster_mean(np.where(layout.prompt == k, np.nan, table.explains(k)), layout.prompt).value
        for k in prompts.tolist()
    ]
    n = len(prompts)
    spread = cluster_mean(n * whole.value - (n - 1) * np.array(left, dtype=float), prompts)
    half = (spread.high - spread.low) / 2
    most = max(whole.value, itself.value)
    return replace(whole, low=whole.value - half, high=most + half)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """What labels hold on other prompts, and how far that goes to the credit of each.

    Attributes:
        weights: Credit.
        labels: From 0.
        layout: Of the tokens.
        mean: S of every prompt and label; 0 where the prompt has no such label.
        has: 1 where it has one, else 0.
        above: Numerator of m at each token.
        below: Its denominator.
    """

    weights: np.ndarray
    labels: np.ndarray
    layout: Layout
    mean: np.ndarray
    has: np.ndarray
    above: np.ndarray
    below: np.ndarray

    @cached_property
    def prompt(self) -> np.ndarray:
        """Of each token."""
        return self.layout.prompt[self.layout.completion]

    @cached_property
    def even(self) -> np.ndarray:
        """Total variation of each completion from even credit."""
        return self.variation(1.0 / self.layout.n_tokens[self.layout.completion])

    def variation(self, other: np.ndarray) -> np.ndarray:
        """Total variation of each completion from another credit."""
        apart = np.abs(self.weights - other)
        n_completions = len(self.layout.prompt)
        return np.bincount(self.layout.completion, weights=apart, minlength=n_completions) / 2

    def explains(self, left_out: int | None = None) -> np.ndarray:
        """`explained`, with a prompt left out of the table or not; its own are then of no use."""
        n, at = self.layout.n_tokens, self.layout.completion
        if len(self.mean) - (left_out is not None) < 2:
            return np.full(len(n), np.nan)
        lift = self.above / self.below
        if left_out is not None:
            others = self.prompt != left_out
            lift = (self.above - others * self.mean[left_out, self.labels]) / (
                self.below - others * self.has[left_out, self.labels]
            )
        predicted = lift / np.bincount(at, weights=lift)[at]
        defined = (n >= MIN_TOKENS) & (self.even >= _EVEN)
        apart = self.variation(predicted) / np.where(defined, self.even, 1.0)
        return np.where(defined, 1 - apart, np.nan)


def _learn(
    weights: Float[np.ndarray, " token"],
    labels: Int[np.ndarray, " token"],
    layout: Layout,
    *,
    of_itself: bool = False,
) -> _Table:
    """The table; `of_itself`: of all prompts for each, without the ones."""
    length = layout.n_tokens[layout.completion]
    prompt = layout.prompt[layout.completion]
    n_prompts, n_labels = int(layout.prompt.max(initial=-1)) + 1, int(labels.max(initial=-1)) + 1
    cell, size = prompt * n_labels + labels, n_prompts * n_labels
    seen = np.bincount(cell, minlength=size)
    total = np.bincount(cell, weights=length * weights, minlength=size)
    mean = np.divide(total, seen, out=np.zeros(size), where=seen > 0).reshape(n_prompts, n_labels)
    has = (seen > 0).reshape(n_prompts, n_labels).astype(float)
    sums = mean.sum(axis=0), has.sum(axis=0)
    if of_itself:
        above, below = (of[labels] for of in sums)
    else:
        above, below = (
            (1 + of - own).ravel()[cell] for of, own in zip(sums, (mean, has), strict=True)
        )
    return _Table(
        weights=weights,
        labels=labels,
        layout=layout,
        mean=mean,
        has=has,
        above=above,
        below=below,
    )


def shares(
    weights: Float[np.ndarray, " token"],
    labels: Int[np.ndarray, " token"],
    n_labels: int,
    layout: Layout,
) -> Float[np.ndarray, "completion label"]:
    """Share of each completion's credit that the tokens of each label hold; rows sum to 1."""
    cell = layout.completion * n_labels + labels
    held = np.bincount(cell, weights=weights, minlength=len(layout.prompt) * n_labels)
    return held.reshape(len(layout.prompt), n_labels).astype(float)  # integers where it is empty


def overlap(
    weights: Float[np.ndarray, " token"],
    labels: Int[np.ndarray, " token"],
    layout: Layout,
) -> float:
    r"""What share of their credit two prompts give to the same labels: the mean over all pairs.

    With c_A(v) the share of credit that label v has in the completions of prompt A, mean over
    these,

        mean over A < B of \sum_v \min(c_A(v), c_B(v)).

    Concentrated credit overlaps less than even credit whatever it rests on, so the figure is read
    against that of the same weights in random order within each completion, and not against even
    credit; the overlap of even credit says how alike the texts are.

    Args:
        weights: Credit.
        labels: From 0.
        layout: Of the tokens.

    Returns:
        1 where all prompts credit the same labels alike, 0 where no two have one in common; NaN
        below two prompts.
    """
    n = int(layout.prompt.max(initial=-1)) + 1
    if n < 2:
        return math.nan
    prompt = layout.prompt[layout.completion]
    each = weights / np.bincount(layout.prompt)[prompt]
    n_labels = int(labels.max(initial=-1)) + 1
    held = np.bincount(labels * n + prompt, weights=each, minlength=n_labels * n)
    # In ascending order a share is the smaller of as many pairs as there are prompts after it.
    smaller = np.arange(n - 1, -1, -1)
    return float((np.sort(held.reshape(n_labels, n), axis=1) @ smaller).sum() / (n * (n - 1) / 2))


def shuffled(layout: Layout, rng: np.random.Generator) -> Int[np.ndarray, " token"]:
    """An order of the tokens that moves each within its own completion, all orders alike."""
    return np.lexsort((rng.random(len(layout.completion)), layout.completion))
