"""Which tokens a heat-map shows, of which completions, and every figure that it shows of them.

Plain data, without colours: each page draws it in its own way. All text in it is fit to be seen:
no character in it is invisible, none moves the others.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arca_diag.report.pieces import GOES_ON, Part, is_byte_level, joined, plain, visible
from arca_diag.results import Report
from arca_diag.signals import SIGNAL_NAMES, SIGNALS
from arca_diag.tables import Tables

#: At most so many tokens of a completion, checkpoints, and tokens in all times checkpoints:
#: a page is opened by a browser, and its figures are in it.
MOST_TOKENS = 400
MOST_CHECKPOINTS = 12
_BUDGET = 40_000
_PROMPT = 2000
#: A colour is at its strongest from this quantile on: one outlier would pale all the others.
TOP = 0.99

_NTH = ("", "second ", "third ")

Row = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token of a completion.

    Attributes:
        position: 0-based in the completion.
        parts: What is shown of it; of a redacted one its class.
        token_class: See `inputs.token_classes`; None without a tokenizer.
        counted: Whether it has credit at all; False for a masked one.
        token_id: None if it is redacted.
        goes_on: It begins within a character of the token before.
        breaks: A line ends with it.
    """

    position: int
    parts: tuple[Part, ...]
    token_class: str | None
    counted: bool
    token_id: int | None
    goes_on: bool = False
    breaks: bool = False

    @property
    def text(self) -> str:
        """What is shown of it, as one string."""
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A completion that is shown.

    Attributes:
        why: Why this one, in plain words.
        rollout_id: Names it in the tables.
        group: Its group.
        step: Optimizer steps that the policy which sampled it had done.
        reward: As logged.
        advantage: As logged; the mean over counted tokens where each has its own.
        finish_reason: As logged.
        prompt: What it answers; None if unknown or redacted.
        fixed: Whether it is of the fixed set, which every checkpoint replays.
        tokens: From the first on.
        n_counted: Counted tokens of the whole completion: an even share of credit is one over it.
        n_left_out: Tokens after the last that is shown.
        values: [checkpoint][signal]: raw, a number a token, in the signal's unit; None where it
            is undefined. A checkpoint that did not replay the completion has no signals.
        weights: The same as credit, a share of the whole completion's.
    """

    why: str
    rollout_id: str
    group: str
    step: int | None
    reward: float | None
    advantage: float | None
    finish_reason: str | None
    prompt: str | None
    fixed: bool
    tokens: tuple[Token, ...]
    n_counted: int
    n_left_out: int
    values: dict[str, dict[str, Row]]
    weights: dict[str, dict[str, Row]]

    def times_even(self, checkpoint: str, signal: str) -> Row:
        """Credit in units of an even share: 1 is what each token had if all had the same."""
        row = self.weights.get(checkpoint, {}).get(signal, ())
        return tuple(None if w is None else w * self.n_counted for w in row)


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """Tokens with their signals, at several checkpoints.

    Attributes:
        signals: Names, in order.
        units: Of each signal's raw values.
        checkpoints: Names, in step order; those of them that are shown.
        steps: Of each checkpoint; None if unknown.
        n_checkpoints_left_out: Measured ones between them that are not shown.
        scales: Signal -> raw values of the weakest and the strongest colour, the same for all
            checkpoints and completions: 0, and the 99th percentile of what is shown.
        credit_scales: The same of credit, in units of an even share.
        sharpening: Of the credit.
        redacted: Tokens are shown by their class alone.
        cases: The most and the least concentrated ones first.
    """

    signals: tuple[str, ...]
    units: dict[str, str]
    checkpoints: tuple[str, ...]
    steps: tuple[int | None, ...]
    n_checkpoints_left_out: int
    scales: dict[str, tuple[float, float]]
    credit_scales: dict[str, tuple[float, float]]
    sharpening: float
    redacted: bool
    cases: tuple[Case, ...]


def heat_map(report: Report, frames: Tables, *, cases: int = 12) -> HeatMap | None:
    """The tokens that a page shows.

    For each signal the most and the least concentrated completion of the fixed set at the last
    checkpoint; where that has too few, of those that this checkpoint was near to. Each is shown
    once, and none that says the same as another.

    Args:
        report: The result.
        frames: Its tables.
        cases: At most so many completions.

    Returns:
        None if no completion was replayed.
    """
    measured = [c for c in report.run.checkpoints if c.measured]
    replayed = set(frames.tokens["checkpoint"].unique())
    names = [c.name for c in measured if c.name in replayed]
    if not names:
        return None
    sharpening = float(report.provenance.options["sharpening"])
    chosen = _choose(frames, names[-1], sharpening, cases)
    shown = _spread(names, MOST_CHECKPOINTS)
    limit = min(MOST_TOKENS, max(1, _BUDGET // (len(shown) * max(1, len(chosen)))))
    rows = frames.tokens[frames.tokens["rollout_id"].isin([c.rollout_id for c in chosen])]
    if "token_class" not in rows:  # results were once made without it
        rows = rows.assign(token_class=None)
    byte_level, redacted = _written(rows)
    found = tuple(_case(c, rows, frames.rollouts, shown, limit, byte_level) for c in chosen)
    if not found:
        return None
    steps = {c.name: c.step for c in measured}
    return HeatMap(
        signals=SIGNAL_NAMES,
        units={s.name: s.unit for s in SIGNALS},
        checkpoints=tuple(shown),
        steps=tuple(steps[name] for name in shown),
        n_checkpoints_left_out=len(names) - len(shown),
        scales={s: _scale(found, shown, s, credit=False) for s in SIGNAL_NAMES},
        credit_scales={s: _scale(found, shown, s, credit=True) for s in SIGNAL_NAMES},
        sharpening=sharpening,
        redacted=redacted,
        cases=found,
    )


@dataclass(frozen=True, kw_only=True)
class _Choice:
    rollout_id: str
    why: str
    fixed: bool


def _choose(frames: Tables, last: str, sharpening: float, most: int) -> list[_Choice]:
    """Completions by how concentrated their credit is at the last checkpoint."""
    rows = frames.trajectories
    rows = rows[(rows["checkpoint"] == last) & (rows["sharpening"] == sharpening)]
    says = dict(zip(frames.rollouts["rollout_id"], frames.rollouts["completion"], strict=True))
    fixed = set(rows.loc[rows["fixed_set"], "rollout_id"])
    stands: dict[str, str] = {}  # what a completion says -> the one that is shown for it
    reasons: dict[str, list[str]] = {}
    for member, where in (("fixed_set", ""), ("own_set", ", on-policy")):
        for rollout_id, why, rank in _ranked(rows[rows[member]]):
            if rank and len(reasons) >= most:
                break
            shown = stands.get(says[rollout_id])
            if shown is not None and rank == 0 and (shown in fixed) == (member == "fixed_set"):
                reasons[shown].append(why + where)
            elif shown is None and len(reasons) < most:
                stands[says[rollout_id]] = rollout_id
                reasons[rollout_id] = [why + where]
    return [
        _Choice(rollout_id=name, why="; ".join(whys), fixed=name in fixed)
        for name, whys in reasons.items()
    ]


def _ranked(rows: pd.DataFrame) -> Iterator[tuple[str, str, int]]:
    """Completions, why each is shown, and how far it is from the ends of its signal's order.

    The ends of each signal come first, then inwards; last those without any figure.
    """
    order: dict[str, list[str]] = {}
    for signal in SIGNAL_NAMES:
        of = rows[(rows["signal"] == signal) & rows["gini_corrected"].notna()]
        ranked = of.sort_values(["gini_corrected", "rollout_id"], ascending=[False, True])
        order[signal] = ranked["rollout_id"].tolist()
    for rank in range(max(map(len, order.values()), default=0) // 2 + 1):
        nth = _NTH[rank] if rank < len(_NTH) else f"{rank + 1}th "
        for signal, names in order.items():
            if rank < (len(names) + 1) // 2:
                yield names[rank], f"{nth}most concentrated {signal}", rank
                yield names[-1 - rank], f"{nth}least concentrated {signal}", rank
    for rollout_id in sorted(rows["rollout_id"].unique()):
        yield rollout_id, "too short for a figure", 1


def _spread(names: Sequence[str], most: int) -> list[str]:
    """At most so many of the names, evenly, the first and the last among them."""
    if len(names) <= most:
        return list(names)
    return [names[round(k * (len(names) - 1) / (most - 1))] for k in range(most)]


def _written(rows: pd.DataFrame) -> tuple[bool, bool]:
    """Whether pieces are written a character a byte, and whether they are redacted."""
    pieces = rows[["token", "token_class"]].drop_duplicates().dropna(subset="token")
    redacted = bool(rows["token"].isna().all() and rows["token_id"].isna().all())
    classes = [None if pd.isna(c) else str(c) for c in pieces["token_class"]]
    return is_byte_level([str(p) for p in pieces["token"]], classes), redacted


def _case(
    choice: _Choice,
    rows: pd.DataFrame,
    rollouts: pd.DataFrame,
    checkpoints: Sequence[str],
    limit: int,
    byte_level: bool,
) -> Case:
    """A completion with its figures at every checkpoint that replayed it."""
    of = {
        name: part.sort_values("position")
        for name, part in rows[rows["rollout_id"] == choice.rollout_id].groupby("checkpoint")
        if name in checkpoints
    }
    any_of = next(iter(of.values()))
    told = rollouts[rollouts["rollout_id"] == choice.rollout_id].iloc[0]
    prompt = _text(told["prompt_text"])
    finish = _text(told["finish_reason"])
    return Case(
        why=choice.why,
        rollout_id=plain(choice.rollout_id),
        group=plain(str(told["group_id"])),
        step=None if pd.isna(told["rollout_step"]) else int(told["rollout_step"]),
        reward=_number(told["reward"]),
        advantage=_number(told["advantage"]),
        finish_reason=None if finish is None else plain(finish),
        prompt=None if prompt is None else plain(prompt, most=_PROMPT, line_breaks=True),
        fixed=choice.fixed,
        tokens=_tokens(any_of, limit, byte_level),
        n_counted=int(any_of["counted"].sum()),
        n_left_out=max(0, len(any_of) - limit),
        values={n: _rows(of[n], "", limit) for n in checkpoints if n in of},
        weights={n: _rows(of[n], "w_", limit) for n in checkpoints if n in of},
    )


def _tokens(rows: pd.DataFrame, limit: int, byte_level: bool) -> tuple[Token, ...]:
    head = rows.iloc[:limit]
    classes = [_text(c) for c in head["token_class"]]
    pieces = [_text(p) for p in head["token"]]
    texts = joined([p or "" for p in pieces], classes, byte_level=byte_level)
    out = []
    columns = (head[name] for name in ("position", "counted", "token_id"))
    for position, counted, token_id, kind, piece, (text, goes_on) in zip(
        *columns, classes, pieces, texts, strict=True
    ):
        start = (Part(text=GOES_ON, mark=True),) if goes_on else ()
        if piece is None:
            unknown = kind or ("token" if pd.isna(token_id) else str(int(token_id)))
            shown: tuple[Part, ...] = (Part(text=unknown, mark=True),)
        else:
            shown = visible(text) or (() if goes_on else (Part(text="∅", mark=True),))
        out.append(
            Token(
                position=int(position),
                parts=(*start, *shown),
                token_class=kind,
                counted=bool(counted),
                token_id=None if pd.isna(token_id) else int(token_id),
                goes_on=goes_on,
                breaks=text.rstrip(" ").endswith("\n"),
            )
        )
    return tuple(out)


def _rows(rows: pd.DataFrame, prefix: str, limit: int) -> dict[str, Row]:
    head = rows.iloc[:limit]
    return {
        signal: tuple(_number(v) for v in head[prefix + signal])
        for signal in SIGNAL_NAMES
        if prefix + signal in head
    }


def _scale(
    cases: Sequence[Case], checkpoints: Sequence[str], signal: str, *, credit: bool
) -> tuple[float, float]:
    """From 0 to the 99th percentile of what is shown; to 1 where nothing is above 0."""
    found = [
        value
        for case in cases
        for name in checkpoints
        for value, token in zip(
            case.times_even(name, signal) if credit else case.values.get(name, {}).get(signal, ()),
            case.tokens,
            strict=False,
        )
        if value is not None and token.counted
    ]
    top = float(np.quantile(found, TOP)) if found else 0.0
    return 0.0, top if top > 0 else max(found, default=0.0) or 1.0


def _number(value: float | None) -> float | None:
    """None for what a table has no number for, whichever way its column writes that."""
    return None if pd.isna(value) or not math.isfinite(value) else float(value)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
