"""Which completions two results have in common: a difference on the same ones is paired.

Only whole sets or whole groups are paired. Single completions that two policies happen to share
are those on which they agree, and a difference on these alone would say too little.
"""

from dataclasses import dataclass

import pandas as pd

from arca_diag.compared import Label, Sets
from arca_diag.comparing.opening import Opened
from arca_diag.results import View
from arca_diag.signals import SIGNAL_NAMES

_KEY = ["cluster", "completion", "n_tokens"]


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The completions of one view at one pair of checkpoints.

    Attributes:
        sets: How they are held together, for the reader.
        pairs: A row for each completion that is paired: `rollout_id_a`, `rollout_id_b` and its
            prompt, `cluster`. None where differences are not paired.
        whole: Whether each completion of either is in a pair.
    """

    sets: Sets
    pairs: pd.DataFrame | None
    whole: bool


def match(a: Opened, b: Opened, at: tuple[Label, Label], view: View) -> Matched:
    """Find the completions that both have, where that can be known and are enough of them.

    All of both are the same, or whole groups are that hold at least half of either's prompts.
    """
    rows = [_completions(side, label, view) for side, label in zip((a, b), at, strict=True)]
    prompts = [
        _prompts(side, label, view, r) for side, label, r in zip((a, b), at, rows, strict=True)
    ]
    pairs, whole, reason = None, False, None
    left, right = rows
    if left is None or right is None:
        reason = "; ".join(
            f"{which}: {side.without}"
            for which, side in (("A", a), ("B", b))
            if side.without is not None
        )
    elif left.empty or right.empty:
        reason = "no completion in one of them"
    else:
        pairs = _same(left, right)
        whole = len(pairs) == len(left) == len(right)
        if not whole:
            pairs = _same(*_common_groups(left, right))
            common = pairs["cluster"].nunique()
            if 2 * common < max(prompts):
                reason = _why_other(a, b, common, max(prompts))
    sets = Sets(
        checkpoint_a=at[0],
        checkpoint_b=at[1],
        view=view,
        paired=reason is None,
        prompts_a=prompts[0],
        prompts_b=prompts[1],
        prompts_common=0 if pairs is None else pairs["cluster"].nunique(),
        completions_common=0 if pairs is None else len(pairs),
        reason=reason,
    )
    return Matched(sets=sets, pairs=pairs if reason is None else None, whole=whole)


def _completions(side: Opened, label: Label, view: View) -> pd.DataFrame | None:
    if side.completions is None:
        return None
    return side.completions.of(side.names[label], view, SIGNAL_NAMES[0])


def _prompts(side: Opened, label: Label, view: View, rows: pd.DataFrame | None) -> int:
    """How many prompts a view has there: of the tables, else as the report counts them."""
    if rows is not None:
        return int(rows["cluster"].nunique())
    found = side.figures.get((label, view, SIGNAL_NAMES[0], None, "mean"))
    return 0 if found is None else found.n_clusters


def _same(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Completions of the same tokens to the same prompt, each of either in one pair at most."""
    numbered = []
    for rows in (a, b):
        rows = rows.dropna(subset=_KEY).reset_index(drop=True).sort_values("rollout_id")
        columns = [*_KEY, "rollout_id"]
        numbered.append(rows[columns].assign(nth=rows.groupby(_KEY).cumcount()))
    return numbered[0].merge(numbered[1], on=[*_KEY, "nth"], suffixes=("_a", "_b"))


def _common_groups(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The groups of one name that hold the same completions in both."""
    held = [
        {
            str(name): sorted(zip(*(rows[key] for key in _KEY), strict=True))
            for name, rows in side.dropna(subset=_KEY).groupby("group_id", sort=False)
        }
        for side in (a, b)
    ]
    names = [name for name, of in held[0].items() if held[1].get(name) == of]
    return a[a["group_id"].isin(names)], b[b["group_id"].isin(names)]


def _why_other(a: Opened, b: Opened, common: int, of: int) -> str:
    redacted = [bool(side.report.provenance.options.get("redact_text")) for side in (a, b)]
    if redacted[0] != redacted[1]:
        return "one result is redacted: that its completions are the same cannot be known"
    if common:
        return f"other completions: {common} of {of} prompts have the same ones"
    return "other completions"
