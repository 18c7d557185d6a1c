"""How the logged quantities of a run moved, from its log alone: no model is needed for that."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from arca_diag.inputs.files import number, step_number
from arca_diag.inputs.runs import Run

#: What is followed -> its keys in the log: TRL's since 0.16 first, then older or others' names.
SERIES = (
    ("reward", ("reward",)),
    ("reward spread", ("reward_std",)),
    ("entropy", ("entropy",)),
    ("kl", ("kl",)),
    ("gradient norm", ("grad_norm",)),
    ("learning rate", ("learning_rate",)),
    ("clip ratio", ("clip_ratio/region_mean", "clip_ratio")),
    ("zero-spread groups", ("frac_reward_zero_std",)),
    ("truncation", ("completions/clipped_ratio",)),
    ("length", ("completions/mean_length", "completion_length")),
)


@dataclass(frozen=True, kw_only=True)
class Trend:
    """One logged quantity over a run, in the unit the trainer logged it in.

    Attributes:
        name: What it is, in words.
        key: Its key in the log.
        first: Mean of the first tenth of its finite values, at least of one.
        last: Mean of the last tenth.
        low: Smallest value.
        high: Largest value.
        n: Number of finite values.
        steps: Steps of the first and of the last value.
    """

    name: str
    key: str
    first: float
    last: float
    low: float
    high: float
    n: int
    steps: tuple[int, int]


Rows = Sequence[tuple[int, Mapping[str, Any]]]


def training_rows(run: Run) -> Rows:
    """Step and row of every entry of the log that has a step and is not of an evaluation."""
    evaluated = {key for key in set().union(*run.log) if key.startswith("eval_")}
    return [
        (step, row)
        for row in run.log
        if evaluated.isdisjoint(row) and (step := step_number(row.get("step"))) is not None
    ]


def series(rows: Rows, key: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Steps and finite values of one logged quantity, in the order of the rows."""
    found = [(step, value) for step, row in rows if (value := number(row.get(key))) is not None]
    return tuple(step for step, _ in found), tuple(value for _, value in found)


def log_trends(run: Run) -> tuple[Trend, ...]:
    """The trends of all that `SERIES` names and the run logged; empty without a log."""
    rows = training_rows(run)
    found = (_trend(rows, name, keys) for name, keys in SERIES)
    return tuple(trend for trend in found if trend is not None)


def logged_points(run: Run) -> list[tuple[int, str, float]]:
    """Step, name and value of every entry of all that `SERIES` names; empty without a log."""
    rows = training_rows(run)
    found = []
    for name, keys in SERIES:
        of_keys = (series(rows, key) for key in keys)
        steps, values = next((one for one in of_keys if one[1]), ((), ()))
        found += [(step, name, value) for step, value in zip(steps, values, strict=True)]
    return found


def _trend(rows: Rows, name: str, keys: tuple[str, ...]) -> Trend | None:
    for key in keys:
        steps, values = series(rows, key)
        if values:
            tenth = max(1, len(values) // 10)
            return Trend(
                name=name,
                key=key,
                first=statistics.mean(values[:tenth]),
                last=statistics.mean(values[-tenth:]),
                low=min(values),
                high=max(values),
                n=len(values),
                steps=(steps[0], steps[-1]),
            )
    return None
