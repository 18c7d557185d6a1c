"""Whether the judge finds what is planted, and nothing else.

    python -m tests.benchmarks.detection [--draws N] [--seed N] [--out FILE] [--only NAME ...]

Runs of 32 prompts of 8 completions are drawn by resampling the prompts of populations whose truth
is computed from their own numbers, and judged by the package's own code. Prints tables, writes
JSON, and ends with status 1 where a bar is missed.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arca_diag.signals import SIGNAL_NAMES
from tests.benchmarks import tally
from tests.benchmarks.cases import CURVES, REPLAYED, SYNTHETIC
from tests.benchmarks.drawing import Source, opinion
from tests.benchmarks.planted import Recipe
from tests.benchmarks.replayed import Weakened
from tests.benchmarks.tally import NONE, Case
from tests.benchmarks.truth import truths

#: Runs of a population, times what its recipe says: 200 cases and more of every cause.
DRAWS = 42
PROCESSES = 2

#: Populations by name. The slow ones come first, so that no process waits for one at the end.
ALL: dict[str, Recipe | Weakened] = {r.name: r for r in (*REPLAYED, *SYNTHETIC, *CURVES)}


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a population's runs.

    Attributes:
        cases: Every signal of every run.
        alarms: Of a healthy population: for each run, credit -> ids of errors and warnings.
    """

    cases: list[Case]
    alarms: list[dict[str, list[str]]]


def look_at(name: str, draws: int, seed: int) -> Found:
    """Build a population, say what is true of it, and judge runs drawn from it."""
    pool = ALL[name].build(seed)
    cause, signal = pool.curve or (None, None)
    true = truths(pool, (signal,) if signal else SIGNAL_NAMES)
    source = Source(pool)
    cases, alarms = [], []
    for draw in range(max(2, round(draws * ALL[name].times))):
        rng = np.random.default_rng([seed, draw, zlib.crc32(pool.name.encode())])
        said = opinion(source.draw(rng), pool.healthy)
        if pool.healthy:
            alarms.append(said.loud)
        for one in said.said:
            place = (one.view, one.signal, one.sharpening)
            if place not in true:
                continue
            truth = true[place]
            cases.append(
                Case(
                    pool=pool.name,
                    curve=cause,
                    prompts=pool.prompts,
                    draw=draw,
                    place=place,
                    true_root=None if truth.borderline else truth.root or NONE,
                    holds=dict(truth.holds),
                    true_figures=dict(truth.figures),
                    true_regime=truth.regime,
                    said_causes=one.causes,
                    said_regime=one.regime,
                    figures=one.figures,
                )
            )
    return Found(cases=cases, alarms=alarms)


def tables(found: Iterable[Found]) -> dict[str, Any]:
    """Everything that is printed, as data."""
    found = list(found)
    cases = [case for one in found for case in one.cases]
    healthy = [run for one in found for run in one.alarms]
    few = [c for c in cases if c.prompts < 8 and c.true_regime != "no-signal"]
    causes = tally.by_cause(cases)
    alarms = tally.rate(any(run.values()) for run in healthy)
    doses = tally.curves(cases)
    return {
        "causes": causes,
        "regimes": tally.by_regime(cases),
        "alarms": alarms,
        "alarms_by_credit": {
            credit: tally.rate(bool(run[credit]) for run in healthy if credit in run)
            for credit in ("uniform", *SIGNAL_NAMES)
        },
        "alarms_ids": sorted({i for run in healthy for ids in run.values() for i in ids}),
        "few_prompts": {
            "inconclusive": tally.rate(c.said_regime == "inconclusive" for c in few),
            "causes": tally.rate(bool(c.said_causes) for c in few),
        },
        "confusion": tally.confusion(cases),
        "not_told_apart": tally.not_told_apart(cases),
        "thresholds": tally.fits(cases),
        "curves": doses,
        "bars": [asdict(bar) for bar in tally.bars(causes, alarms, doses)],
    }


def show(found: dict[str, Any]) -> str:
    """The tables as text."""
    titles = f"{'recall':>32}{'precision':>32}{'inconclusive':>32}"
    lines = ["Drawn runs of 32 prompts, odd draws, borderline truth aside", ""]
    lines.append(f"{'root cause':22}{titles}")
    lines += [_line(cause, row) for cause, row in found["causes"].items()]
    lines += ["", f"{'regime':22}{titles}"]
    lines += [_line(regime, row) for regime, row in found["regimes"].items()]
    few = found["few_prompts"]
    lines += [
        "",
        f"Healthy runs with an error or a warning, under any credit that is sound there: "
        f"{tally.said_rate(found['alarms'])} {found['alarms_ids'] or ''}".rstrip(),
        f"Runs of 6 prompts: inconclusive {tally.said_rate(few['inconclusive'])}, with a cause "
        f"{tally.said_rate(few['causes'])}",
        "",
        "True root cause (rows), named root cause (columns)",
    ]
    names = [n for n in found["confusion"] if n != "borderline"]
    names += sorted({s for row in found["confusion"].values() for s in row} - set(names))
    lines.append(" " * 22 + "".join(f"{_short(n):>14}" for n in names))
    for truth, row in found["confusion"].items():
        lines.append(f"{truth:22}" + "".join(f"{row.get(n, 0) or '.':>14}" for n in names))
    lines += ["", *(found["not_told_apart"] or ["Nothing is taken for something else."]), ""]
    lines.append(
        f"{'cut':20}{'shipped':>9}{'recall':>8}{'false':>8}{'fitted':>9}{'recall':>8}{'false':>8}"
    )
    for row in found["thresholds"].values():
        lines.append(
            f"{row['cut']:20}"
            + "".join(
                f"{row[name]:>9.3g}{row[f'at_{name}']['recall']:>8.3f}{row[f'at_{name}']['false']:>8.3f}"
                for name in ("shipped", "fitted")
            )
        )
    lines += ["", "Dose curves: true figure (share of runs in which the cause is named)"]
    for cause, row in found["curves"].items():
        doses = zip(row["doses"], row["called"], strict=True)
        lines.append(
            f"{cause:22}"
            + "  ".join(f"{d:.3g} ({c:.2f})" for d, c in doses)
            + f"; half at {row['half']:.3g}, cut {row['cut']:g}"
        )
    lines += ["", "Bars"]
    lines += [
        f"{'met   ' if b['met'] else 'MISSED'} {b['name']}: {b['found']}" for b in found["bars"]
    ]
    return "\n".join(lines)


def _line(name: str, row: dict[str, Any]) -> str:
    recall, precision, still_open = (
        tally.said_rate(row[of]) for of in ("recall", "precision", "inconclusive")
    )
    return f"{name:22}{recall:>32}{precision:>32}{still_open:>32}"


def _short(cause: str) -> str:
    return cause.removeprefix("credit-").removeprefix("completions-").removeprefix("adapter-")[:13]


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge everything, print the tables, write the JSON; the status says whether bars are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--only", nargs="+", help="names of populations")
    parser.add_argument(
        "--out", type=Path, default=Path(tempfile.gettempdir()) / "arca-diag-detection.json"
    )
    asked = parser.parse_args(arguments)

    names = [name for name in ALL if not asked.only or name in asked.only]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that are started now
    found = []
    with ProcessPoolExecutor(
        asked.processes, mp_context=multiprocessing.get_context("spawn")
    ) as processes:
        work = processes.map(
            look_at, names, itertools.repeat(asked.draws), itertools.repeat(asked.seed)
        )
        for name, one in zip(names, work, strict=True):
            found.append(one)
            print(f"judged {name}", file=sys.stderr, flush=True)
    told = tables(found)
    print(show(told))
    asked.out.write_text(
        json.dumps({"draws": asked.draws, "seed": asked.seed} | told, indent=2, allow_nan=False)
        + "\n"
    )
    print(f"\nfigures in {asked.out}")
    return 0 if all(bar["met"] for bar in told["bars"]) else 1


if __name__ == "__main__":
    sys.exit(main())
