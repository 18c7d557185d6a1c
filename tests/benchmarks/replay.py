"""How close replay is to the limit: ratios in one process, medians of interleaved repeats.

python -m tests.benchmarks.replay [--quick] [--repeats N] [--only NAME,...] [--out FILE]
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from arca_diag.config import ScanConfig
from arca_diag.credit import credit_weights
from arca_diag.diagnostics import DIAGNOSTICS
from arca_diag.inputs.gather import gather, load_rollouts
from arca_diag.inputs.runs import find_run
from arca_diag.inputs.selection import group_entries
from arca_diag.pipeline import diagnose
from arca_diag.progress import Silent
from arca_diag.replay.batches import plan
from arca_diag.replay.device import BATCH_TOKENS
from arca_diag.replay.forward import replay
from arca_diag.replay.loading import load_adapted
from arca_diag.replay.units import Units, open_shelf
from arca_diag.signals import SIGNAL_NAMES
from tests.benchmarks.workload import (
    EACH,
    LENGTHS,
    PROMPT,
    Setting,
    all_tokens,
    floor_tokens,
    group_rollouts,
    load,
    loop,
    names_of,
    plain_pass,
)

SAMPLES = Path(__file__).parents[2] / "sample_runs"
BUDGET = BATCH_TOKENS["cpu"]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much is run: the real thing, or enough to see that it runs.

    Attributes:
        base: The base model.
        run: A run on it.
        groups: Groups of the fixed workload.
        checkpoints: N.
        repeats: Of every timing.
        long: Tokens of the completions whose memory is measured.
        tokens: Synthetic tokens for the diagnostics.
        options: Of the scan that is taken apart.
    """

    base: Path
    run: Path
    groups: int
    checkpoints: int
    repeats: int
    long: int
    tokens: int
    options: Mapping[str, object]

    def setting(
        self, dtype: torch.dtype = torch.float32, groups: int = 0, count: int = 0
    ) -> Setting:
        """The workload under N adapters, or of another size."""
        count = count or self.checkpoints
        model = load(self.base, sorted(self.run.glob("checkpoint-*")), dtype, count)
        rollouts = group_rollouts(model.base.config.vocab_size, groups or self.groups)
        return Setting(model=model, names=names_of(count), rollouts=rollouts)


REAL = Scale(
    base=SAMPLES / "base-models" / "SmolLM2-135M-Instruct",
    run=SAMPLES / "smollm2-addition",
    groups=4,
    checkpoints=4,
    repeats=3,
    long=1024,
    tokens=10_000_000,
    options={"checkpoints": "2,30,60", "groups": 12, "fixed_groups": 16},
)
QUICK = Scale(
    base=SAMPLES / "tiny-addition" / "base",
    run=SAMPLES / "tiny-addition",
    groups=1,
    checkpoints=2,
    repeats=1,
    long=32,
    tokens=20_000,
    options={"checkpoints": "2", "groups": 1, "fixed_groups": 1},
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One bar of the table: what was measured, and what it must be."""

    name: str
    value: float
    bar: str
    met: bool
    detail: Mapping[str, float] = field(default_factory=dict)


def most(name: str, value: float, limit: float, unit: str = "", **detail: float) -> Row:
    """A figure that must be at most so much."""
    bar = f"at most {limit:g}{unit}"
    return Row(name=name, value=value, bar=bar, met=bool(value <= limit), detail=detail)


def least(name: str, value: float, limit: float, unit: str = "", **detail: float) -> Row:
    """A figure that must be at least so much."""
    bar = f"at least {limit:g}{unit}"
    return Row(name=name, value=value, bar=bar, met=bool(value >= limit), detail=detail)


def told(name: str, value: float, **detail: float) -> Row:
    """A figure that there is no bar for."""
    return Row(name=name, value=value, bar="no bar", met=True, detail=detail)


def seconds(repeats: int, **runs: Callable[[], object]) -> dict[str, float]:
    """Median time of each, in turns, so that what slows the machine slows all alike.

    On one thread it is the process's own time, which others on the machine do not move.
    """
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begun = clock()
            run()
            taken[name].append(clock() - begun)
    return {name: statistics.median(times) for name, times in taken.items()}


def run_replay(
    setting: Setting, names: Sequence[str] | None = None, units: Units | None = None
) -> None:
    """The replay of a scan, planning included."""
    batches = plan(setting.work(names), BUDGET, share=True)
    for _ in replay(setting.model, batches, temperature=1.0, progress=Silent(), units=units):
        pass


def passes(scale: Scale) -> Iterator[Row]:
    """Against plain passes and against the loop."""
    whole = scale.setting(torch.float32)
    yield from _passes(scale, whole, at_most=0.7, faster=3.5)

    took = seconds(
        scale.repeats,
        replay=lambda: run_replay(whole),
        one_by_one=lambda: loop(whole.model, whole.names, whole.rollouts, batch=1),
    )
    alone = took["one_by_one"] / took["replay"]
    yield told("the same loop, a completion a pass / replay, float32", alone, **took)


def passes_bfloat16(scale: Scale) -> Iterator[Row]:
    """The same in bfloat16."""
    # Without instructions for it a pass takes six times as long: one group has to do.
    yield from _passes(scale, scale.setting(torch.bfloat16, groups=1), at_most=0.33, faster=3.9)


def _passes(scale: Scale, setting: Setting, *, at_most: float, faster: float) -> Iterator[Row]:
    base, rollouts = setting.model.base, setting.rollouts

    def plain_adapted() -> None:
        with setting.model.using(setting.names[0]):
            plain_pass(base, rollouts, BUDGET)

    took = seconds(
        scale.repeats,
        plain=lambda: plain_pass(base, rollouts, BUDGET),
        plain_adapted=plain_adapted,
        replay=lambda: run_replay(setting),
        loop=lambda: loop(setting.model, setting.names, rollouts),
    )
    said = str(base.dtype).removeprefix("torch.")
    floor = floor_tokens(rollouts) / all_tokens(rollouts)
    detail = took | {"floor_in_tokens": floor}
    plain = (len(setting.names) + 1) * took["plain"]
    yield most(f"replay / (N + 1) plain passes, {said}", took["replay"] / plain, at_most, **detail)
    yield least(f"loop / replay, {said}", took["loop"] / took["replay"], faster, "x", **detail)


def growth(scale: Scale) -> Iterator[Row]:
    """Time over 16 times the tokens and 16 times the checkpoints: a straight line?"""
    big = scale.setting(groups=16, count=16)
    sizes = (1, 2, 4, 8, 16)
    each = len(LENGTHS)
    for what in ("tokens", "checkpoints"):
        runs = {}
        for size in sizes:
            groups, count = (size, 1) if what == "tokens" else (1, size)
            part = Setting(
                model=big.model, names=big.names[:count], rollouts=big.rollouts[: groups * each]
            )
            runs[str(size)] = lambda part=part: run_replay(part)
        took = seconds(scale.repeats, **runs)
        x, y = np.array(sizes, dtype=float), np.array([took[str(s)] for s in sizes])
        slope, start = np.polyfit(x, y, 1)
        unexplained = ((y - slope * x - start) ** 2).sum() / ((y - y.mean()) ** 2).sum()
        yield least(
            f"growth in {what} over 16x, R^2", 1 - unexplained, 0.98, slope=slope, start=start
        )


class Peak:
    """The most memory that is held within a `with` block, above what was held before it, in GB."""

    def __enter__(self) -> "Peak":
        self._own = psutil.Process()
        self._before = self._most = self._own.memory_info().rss
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.002):
            self._most = max(self._most, self._own.memory_info().rss)

    @property
    def above(self) -> float:
        """In GB, of the process and not of its children."""
        return (self._most - self._before) / 1e9


def alone(of: Callable[..., Any], *arguments: object) -> Any:
    """What a function gives in a process of its own, whose memory nothing has used before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(of, *arguments).result()


def _second_scan(scale: Scale) -> dict[str, float]:
    """Median seconds of a second scan's replay, and of the new checkpoint's passes alone."""
    setting = scale.setting(groups=3 * scale.groups)
    *old, new = setting.names
    third = len(setting.rollouts) // 3
    own = Setting(model=setting.model, names=(new,), rollouts=setting.rollouts[:third])
    fixed = Setting(model=setting.model, names=setting.names, rollouts=setting.rollouts[third:])

    def adapted() -> None:
        """What no scan can do without: the new adapter's states, and the head over them."""
        with torch.inference_mode(), setting.model.using(new):
            for part in (own, fixed):
                for batch in plan(part.work([new]), BUDGET, share=True):
                    if batch.chains:
                        hidden = setting.model.hidden(batch.ids, batch.attend)
                    else:
                        hidden = setting.model.hidden_of_trees(batch.ids, batch.depth, batch.end)
                    setting.model.head(hidden.flatten(0, 1)[batch.states])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shelf = open_shelf(folder)
        assert shelf is not None
        run_replay(fixed, old, Units(shelf=shelf))
        before = set(folder.iterdir())

        def second() -> None:
            for path in set(folder.iterdir()) - before:
                path.unlink()
            units = Units(shelf=shelf)
            run_replay(fixed, setting.names, units)
            run_replay(own, [new], units)

        # Near its bar, and over in a minute: more repeats.
        return seconds(3 * scale.repeats, second=second, adapted=adapted)


def second_scan(scale: Scale) -> Iterator[Row]:
    """One new checkpoint, all others' passes kept: against one adapted pass over its sets.

    In a process of its own, as a scan is.
    """
    took = alone(_second_scan, scale)
    yield most(
        "second scan with a new checkpoint / one adapted pass",
        took["second"] / took["adapted"],
        1.5,
        **took,
    )


def _memory(folder: Path, long: int) -> float:
    model = load(folder / "base", [folder / "adapter"], torch.float32, 1)
    rollouts = group_rollouts(model.base.config.vocab_size, 8, lengths=(long,) * EACH)
    with Peak() as memory:
        run_replay(Setting(model=model, names=names_of(1), rollouts=rollouts))
    return memory.above


def memory(scale: Scale) -> Iterator[Row]:
    """Above the weights, at 64 long completions, in a process of its own.

    Of two layers: they follow each other and leave nothing, so more of them need no more.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = AutoConfig.from_pretrained(scale.base)
        config.num_hidden_layers = 2
        small = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        small.save_pretrained(folder / "base")
        lora = LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        get_peft_model(small, lora).save_pretrained(folder / "adapter")
        above = alone(_memory, folder, scale.long)
    yield most(
        f"peak memory above weights, 64 x {scale.long} tokens, GB",
        above,
        1,
        full_logits=64 * scale.long * config.vocab_size * 4 / 1e9,
    )


def sample(scale: Scale) -> Iterator[Row]:
    """Replay of the run's own completions against its floor in tokens at the plain pass's speed."""
    config = ScanConfig(run=scale.run, checkpoints=str(scale.options["checkpoints"]).split(",")[-1])
    inputs = gather(config, find_run(config.run), also=frozenset())
    every = group_entries(inputs.census.entries)
    chosen = every[:: max(1, len(every) // scale.groups)][: scale.groups]
    rollouts = load_rollouts(inputs, {group.id for group in chosen})
    model, inputs = load_adapted(inputs, "float32", "cpu")
    setting = Setting(
        model=model,
        names=tuple(adapter.checkpoint.name for adapter in inputs.adapters),
        rollouts=rollouts,
    )
    took = seconds(
        scale.repeats,
        plain=lambda: plain_pass(model.base, rollouts, BUDGET),
        replay=lambda: run_replay(setting),
    )
    runs = 1 + len(setting.names)
    floor = runs * took["plain"] * floor_tokens(rollouts) / all_tokens(rollouts)
    planned = sum(b.tokens for b in plan(setting.work(), BUDGET, share=True))
    yield most(
        "sample: replay / floor in tokens at the plain pass's speed",
        took["replay"] / floor,
        1.4,
        **took,
        tokens=all_tokens(rollouts),
        floor_tokens=floor_tokens(rollouts),
        run_tokens=planned,
    )


class Stopwatch(Silent):
    """Time of every stage of a scan."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}
        self.name, self.begun = "starting", time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.taken[self.name] = self.taken.get(self.name, 0) + now - self.begun
        self.name, self.begun = name, now


def whole_scan(scale: Scale) -> Iterator[Row]:
    """Where the time of a scan goes; and replay against its own floor in tokens."""
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        config = ScanConfig(run=scale.run, out=Path(folder) / "out", no_cache=True, **scale.options)
        diagnose(config, watch)
        watch.stage("done")
    model = ("loading the base model", "replaying", "looking into the layers", "measuring noise")
    total = sum(watch.taken.values())
    other = total - sum(watch.taken.get(name, 0) for name in model)
    yield most("what is no pass and no loading / whole scan", other / total, 0.2, **watch.taken)


def _diagnostics(tokens: int) -> tuple[float, float, int]:
    """Seconds, GB and tokens."""
    rng = np.random.default_rng(0)
    length, rows = 250, 4000
    spent, done = 0.0, 0
    with Peak() as memory:
        while done < tokens:
            scores = rng.exponential(size=(min(rows, -(-(tokens - done) // length)), length))
            mask = np.ones(scores.shape, dtype=bool)
            begun = time.perf_counter()
            for _ in SIGNAL_NAMES:
                weights = credit_weights(scores, mask)
                for diagnostic in DIAGNOSTICS:
                    diagnostic.measure(weights, mask)
            spent += time.perf_counter() - begun
            done += scores.size
    return spent, memory.above, done


def diagnostics(scale: Scale) -> Iterator[Row]:
    """Weights and every diagnostic of synthetic tokens of seven signals, a share at a time."""
    spent, above, done = alone(_diagnostics, scale.tokens)
    yield most("diagnostics of synthetic tokens, s", spent, 60, tokens=done)
    yield most("diagnostics of synthetic tokens, GB", above, 2, tokens=done)


PARTS: dict[str, Callable[[Scale], Iterator[Row]]] = {
    "passes": passes,
    "bfloat16": passes_bfloat16,
    "second": second_scan,
    "growth": growth,
    "memory": memory,
    "sample": sample,
    "scan": whole_scan,
    "diagnostics": diagnostics,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write the JSON, and say by the status whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a tiny model: only that it runs")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--groups", type=int, help="of the fixed workload")
    parser.add_argument("--only", default=",".join(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--out", type=Path, default=Path(tempfile.gettempdir()) / "arca-diag-replay.json"
    )
    asked = parser.parse_args(arguments)
    scale = QUICK if asked.quick else REAL
    scale = dataclasses.replace(
        scale, repeats=asked.repeats or scale.repeats, groups=asked.groups or scale.groups
    )
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    print(
        f"prompts of {PROMPT} tokens, completions of {sum(LENGTHS) / len(LENGTHS):g} on average, "
        f"{scale.groups} groups of {EACH}, N = {scale.checkpoints}; "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}\n"
    )
    found = []
    for name in asked.only.split(","):
        for row in PARTS[name](scale):
            found.append(row)
            print(f"{row.name:62} {row.value:>9.3g}  {row.bar:16} {'' if row.met else 'MISSED'}")
            detail = ", ".join(f"{key} {value:.4g}" for key, value in row.detail.items())
            print(f"    {detail}" if detail else "", flush=True)
    missed = [row.name for row in found if not row.met]
    asked.out.write_text(json.dumps({"rows": [asdict(r) for r in found]}, indent=2) + "\n")
    print(f"{len(found) - len(missed)} of {len(found)} bars met; figures in {asked.out}")
    return 1 if missed and not asked.quick else 0


if __name__ == "__main__":
    sys.exit(main())
