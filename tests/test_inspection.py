"""`arca-diag inspect`: what a run holds and what is wrong with it, quickly and without a model."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.config import resolve
from arca_diag.inspected import Inspection
from arca_diag.inspection import inspect_run
from arca_diag.pipeline import diagnose
from arca_diag.progress import Silent
from tests.conftest import ROOT, TINY, UNRENDERED
from tests.inputs import edit_json

SMOLLM2 = ROOT / "sample_runs" / "smollm2-addition"


def inspected(run: Path, **flags: Any) -> Inspection:
    tensors = flags.pop("tensors", True)
    return inspect_run(resolve({"run": run} | flags, environ={}, cwd=run), tensors=tensors)


def said(run: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, ["inspect", str(run), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def process(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "arca_diag", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "80"},
        check=False,
    )


class TestASample:
    @pytest.mark.parametrize("run", [TINY, SMOLLM2], ids=lambda path: path.name)
    def test_has_no_fault(self, run):
        # The base of the larger one is not in the repository, which is no fault of the run.
        assert {f.id for f in inspected(run).findings if f.level != "note"} <= {"base-missing"}

    def test_is_judged_by_the_cuts_that_were_set(self):
        def found(**cuts: float) -> set[str]:
            return {f.id for f in inspected(TINY, thresholds=cuts).findings}

        moved = {"layer-dominates", "no-advantage"}
        assert not found() & moved
        assert found(**{"layer-dominates": 0.01}) & moved == {"layer-dominates"}
        assert found(**{"no-advantage-warn": 0.0}) & moved == {"no-advantage"}

    def test_is_described(self):
        found = inspected(TINY)
        run = found.run
        assert (run.framework, run.framework_version) == ("trl", "1.16.0")
        assert "completions_*.parquet" in run.recognised_by
        assert [c.step for c in run.checkpoints] == [2, 20, 40, 60, 80, 100]
        first = run.checkpoints[0]
        assert (first.rank, first.alpha, first.init) == (4, 8.0, "true")
        assert (first.use_dora, first.use_rslora) == (False, False)
        assert "q_proj" in first.target_modules
        size = (TINY / "checkpoint-2" / "adapter_model.safetensors").stat().st_size
        assert first.size_bytes == size
        assert (run.temperature, run.beta, run.num_generations) == (1.0, 0.0, 16.0)
        assert run.max_completion_length == 48
        assert found.base.found
        assert found.base.named_by == "adapter_config.json"
        assert found.reference.kind == "adapter-off"
        assert found.adapter.init == "true"
        rollouts = found.rollouts
        assert (rollouts.found, rollouts.groups, rollouts.ids_exact) == (4224, 264, True)
        assert (rollouts.eval_excluded, rollouts.steps[0], rollouts.steps[-1]) == (0, 0, 100)

    def test_shows_how_what_was_logged_moved(self):
        state = json.loads((TINY / "trainer_state.json").read_bytes())
        rewards = [row["reward"] for row in state["log_history"] if "reward" in row]
        trends = {t.name: t for t in inspected(TINY).trends}
        assert {
            "reward", "entropy", "gradient norm", "learning rate", "clip ratio",
            "zero-spread groups", "truncation", "length",
        } <= trends.keys()  # fmt: skip
        tenth = len(rewards) // 10
        assert trends["reward"].first == pytest.approx(np.mean(rewards[:tenth]))
        assert trends["reward"].last == pytest.approx(np.mean(rewards[-tenth:]))

    def test_an_updates_norm_is_that_of_the_dense_products(self):
        tensors = load_file(TINY / "checkpoint-20" / "adapter_model.safetensors")
        squared = 0.0
        for key, a in tensors.items():
            if ".lora_A." in key:
                b = tensors[key.replace(".lora_A.", ".lora_B.")]
                squared += np.sum((8 / 4 * b.astype(float) @ a.astype(float)) ** 2)
        (at_20,) = [c for c in inspected(TINY).run.checkpoints if c.step == 20]
        assert at_20.update_norm == pytest.approx(squared**0.5, rel=1e-6)

    def test_foretells_what_a_scan_replays(self, tiny_run, tmp_path):
        plan = inspected(tiny_run, groups=3, fixed_groups=4).plan
        told: dict[str, int] = {}

        class Heard(Silent):
            def start(self, total: int, unit: str) -> None:
                told.setdefault(unit, total)  # a few of them go through it again later

        flags = {"run": tiny_run, "groups": 3, "fixed_groups": 4, "out": tmp_path / "out"}
        flags |= {"no_prefix_sharing": True}
        done = diagnose(resolve(flags, environ=UNRENDERED, cwd=tmp_path), Heard())
        rollouts = done.report.rollouts
        assert (plan.completions, plan.groups) == (rollouts.selected, rollouts.groups)
        # The prompts are text, so their size is a guess.
        assert plan.guessed
        assert plan.pass_tokens == pytest.approx(told["tokens"], rel=0.25)


def test_checkpoints_of_two_bases_are_no_plan(own_run):
    edit_json(own_run / "checkpoint-20" / "adapter_config.json", base_model_name_or_path="other")
    found = inspected(own_run)
    (told,) = [f for f in found.findings if "name different bases" in f.message]
    assert told.level == "error"
    assert found.plan is None


class TestTheCommand:
    def test_prints_json_and_nothing_else(self):
        done = process("inspect", TINY, "--json")
        assert done.returncode == 0
        assert Inspection.model_validate_json(done.stdout).run.name == TINY.name
        assert done.stderr == ""

    def test_needs_no_torch_and_no_library_of_models(self):
        code = (
            "import sys; from arca_diag.cli import main\n"
            f"sys.argv = ['arca-diag', 'inspect', {str(TINY)!r}]\n"
            "try: main()\nexcept SystemExit: pass\n"
            "bad = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
            "sys.exit(f'imported {bad}' if bad else 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    def test_fits_80_columns(self):
        done = process("inspect", TINY)
        assert max(map(len, done.stdout.splitlines())) <= 80

    def test_names_the_next_command(self):
        assert f"arca-diag scan {os.path.relpath(TINY)}" in said(TINY).replace("\n", " ")

    def test_a_checkpoint_inside_a_run_is_inspected_with_its_run(self):
        found = inspected(TINY / "checkpoint-20")
        assert [c.step for c in found.run.checkpoints] == [20]
        assert found.rollouts.found == 4224

    def test_what_is_no_run_is_refused(self, tmp_path):
        result = CliRunner().invoke(app, ["inspect", str(tmp_path)])
        assert result.exit_code == 2
        assert "no LoRA adapter here" in result.stderr

    def test_a_result_is_named_as_one(self, tmp_path):
        (tmp_path / "report.json").write_text("{}")
        result = CliRunner().invoke(app, ["inspect", str(tmp_path)])
        assert result.exit_code == 2
        assert "arca-diag report" in result.stderr.replace("\n", " ")

    def test_text_of_the_run_is_never_markup(self, own_run):
        edit_json(own_run / "checkpoint-2" / "adapter_config.json", init_lora_weights="[/red]\x1b")
        for path in own_run.glob("checkpoint-[!2]*"):
            shutil.rmtree(path)
        shutil.rmtree(own_run / "checkpoint-20")
        shown = said(own_run)
        assert "[/red]" in shown
        assert "\x1b" not in shown


class TestHowFast:
    def test_the_structure_of_ten_checkpoints_takes_under_two_seconds(self, tmp_path):
        """Headers only: the tensors of these would take far longer to read."""
        run = tmp_path / TINY.name
        shutil.copytree(TINY, run, ignore=shutil.ignore_patterns("checkpoint-*", "arca-diag"))
        for step in range(10, 110, 10):
            shutil.copytree(TINY / "checkpoint-20", run / f"checkpoint-{step}")
        # What else runs on the machine only adds to a time: one of eight tries is enough.
        tries = (self.seconds(run) / max(1.0, self.yardstick() / 0.6) for _ in range(8))
        assert any(seconds < 2 for seconds in tries)

    def yardstick(self) -> float:
        """Processor time of ten million additions: .6 s where the limit of two seconds is meant.

        A rented core may be half as fast from one hour to the next; beside each try, so that both
        meet the same.
        """
        begun = time.process_time()
        total = 0
        for number in range(10_000_000):
            total += number
        return time.process_time() - begun

    def seconds(self, run: Path) -> float:
        """Of a processor: what else runs on the machine is no part of it."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = process("inspect", run, "--no-tensors", "--json")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert len(json.loads(done.stdout)["run"]["checkpoints"]) == 10
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def test_without_tensors_no_value_is_read(self, own_run):
        for path in own_run.glob("checkpoint-*/adapter_model.safetensors"):
            tensors = {k: np.full_like(v, np.nan) for k, v in load_file(path).items()}
            save_file(tensors, path)
        quick, whole = inspected(own_run, tensors=False), inspected(own_run)
        assert "adapter-broken" not in {f.id for f in quick.findings}
        assert all(c.update_norm is None for c in quick.run.checkpoints)
        assert "adapter-broken" in {f.id for f in whole.findings}


def plant(run: Path) -> set[str]:
    """Every fault that can be in one run, and the ids that must name them."""
    first, second, third = (run / f"checkpoint-{step}" for step in (2, 20, 100))
    weights = {p: load_file(p / "adapter_model.safetensors") for p in (first, second, third)}

    # checkpoint-2 does nothing, one of its layers is broken by NaN in checkpoint-20.
    save_file(
        {k: 0 * v if ".lora_B." in k else v for k, v in weights[first].items()},
        first / "adapter_model.safetensors",
    )
    broken = dict(weights[second])
    key = next(k for k in broken if ".lora_A." in k)
    broken[key] = broken[key].copy()
    broken[key][0, 0] = np.nan
    save_file(broken, second / "adapter_model.safetensors")
    # checkpoint-100 moves one layer and hardly any other, and has a dead one.
    skewed = {
        k: v * (1 if "layers.0.self_attn.q_proj" in k else 1e-3) if ".lora_B." in k else v
        for k, v in weights[third].items()
    }
    dead = next(k for k in skewed if ".lora_B." in k and "layers.1." in k)
    skewed[dead] = 0 * skewed[dead]
    save_file(skewed, third / "adapter_model.safetensors")
    # Two more that are equal, byte for byte; one that is a shard, one damaged, one sharded state.
    for step in (110, 120):
        shutil.copytree(third, run / f"checkpoint-{step}")
    shard = dict(weights[second])
    shard[key] = np.zeros((0,), dtype=np.float32)
    shutil.copytree(second, run / "checkpoint-130")
    save_file(shard, run / "checkpoint-130" / "adapter_model.safetensors")
    shutil.copytree(second, run / "checkpoint-140")
    (run / "checkpoint-140" / "adapter_model.safetensors").write_bytes(b"\x08")
    (run / "checkpoint-150" / "pytorch_model_fsdp_0").mkdir(parents=True)
    (run / "checkpoint-150" / "pytorch_model_fsdp_0" / ".metadata").write_bytes(b"x")
    # Written by a hand that lost the rsLoRA flag, for a PEFT that is still to come.
    edit_json(third / "adapter_config.json", use_rslora=None, peft_version=None)
    edit_json(run / "checkpoint-110" / "adapter_config.json", peft_version="99.0.0")
    # Nothing learns: no spread, no entropy, one answer a group.
    state = json.loads((run / "trainer_state.json").read_bytes())
    for n, row in enumerate(state["log_history"]):
        fall = max(0.01, 1 - n / len(state["log_history"]))
        row |= {"frac_reward_zero_std": 1.0, "reward": 0.5, "entropy": fall**4}
        row |= {"kl": 0.5, "completions/clipped_ratio": 1.0, "grad_norm": 0.0}
    for path in [run, *run.glob("checkpoint-*")]:
        (path / "trainer_state.json").unlink(missing_ok=True)
    (run / "trainer_state.json").write_text(json.dumps(state))
    shutil.rmtree(run / "base")
    for path in run.glob("checkpoint-*"):
        (path / "training_args.bin").unlink(missing_ok=True)
    return {
        "adapter-inert", "adapter-broken", "adapter-sharded", "adapter-unchanged",
        "layer-dominates", "layers-dead", "rslora-lost", "peft-newer", "base-missing",
        "checkpoint-unreadable", "checkpoint-sharded", "temperature-assumed",
        "no-advantage", "nothing-moves", "completions-truncated",
    }  # fmt: skip


def test_a_run_with_every_fault_planted_has_them_all_found(own_run: Path) -> None:
    expected = plant(own_run)
    found = inspected(own_run)
    ids = {f.id for f in found.findings}
    assert expected <= ids, expected - ids
    for told in found.findings:
        assert told.message
        assert told.action
        assert told.source
    levels = [f.level for f in found.findings]
    assert levels == sorted(levels, key=("error", "warn", "note").index)
    shown = said(own_run)
    for identity in expected:
        assert f"[{identity}]" in shown
