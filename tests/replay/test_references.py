"""Divergence, KL and residual are measured from the reference that was chosen, and no other."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from arca_diag.config import resolve
from arca_diag.errors import ArcaError
from arca_diag.inputs.gather import gather
from arca_diag.inputs.runs import find_run
from arca_diag.pipeline import diagnose
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work, plan
from arca_diag.replay.forward import replay
from arca_diag.replay.loading import load_adapted
from arca_diag.replay.scores import Replayed
from tests.conftest import UNRENDERED
from tests.replay.test_convert import special_adapter, summed
from tests.replay.test_forward import (
    Plain,
    Rollout,
    assert_same,
    new_adapter,
    plain_pass,
    plain_scores,
    random_rollouts,
    scored,
    small_llama,
)

PLAIN = {"target_modules": ["q_proj", "down_proj"]}


def a_run(root: Path, rollouts: list[Rollout], steps: tuple[int, ...] = (10, 20)) -> Path:
    """A run of a small model on disk, its completions as a canonical file."""
    root.mkdir()
    base = small_llama(root / "base")
    for step in steps:
        new_adapter(base, root / f"checkpoint-{step}", seed=step, **PLAIN)
    lines = [
        {"id": r.id, "step": 10, "group_id": "g", "prompt_ids": r.prompt_ids,
         "completion_ids": r.completion_ids}
        for r in rollouts
    ]  # fmt: skip
    (root / "rollouts.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def loaded(run: Path, asked: str = "auto") -> AdaptedModel:
    """The model as a scan loads it, in float64."""
    config = resolve(options(run, asked), environ=UNRENDERED, cwd=run)
    inputs = gather(config, find_run(run), frozenset())
    model, _ = load_adapted(inputs, "float64", "cpu")
    return model


def options(run: Path, asked: str) -> dict[str, Any]:
    return {
        "run": run,
        "base": str(run / "base"),
        "rollouts": run / "rollouts.jsonl",
        "reference": asked,
        "temperature": 1.0,
    }


def passed(base: Path, adapter: Path | None, rollouts: list[Rollout]) -> dict[str, Plain]:
    """The plain forward of the base, or of the base with one adapter, in float64."""
    model = AutoModelForCausalLM.from_pretrained(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model = model.to(torch.float64).eval()
    return {r.id: plain_pass(model, r) for r in rollouts}


def check(
    found: Mapping[tuple[str, str], Replayed],
    rollouts: list[Rollout],
    policies: Mapping[str, Mapping[str, Plain]],
    reference: Mapping[str, Mapping[str, Plain]],
) -> None:
    assert len(found) == len(rollouts) * len(policies)
    for name, policy in policies.items():
        for r in rollouts:
            truth = plain_scores(reference[name][r.id], policy[r.id], r, 1.0)
            assert_same(found[name, r.id], truth)


NAMES = ["checkpoint-10", "checkpoint-20"]


@pytest.mark.parametrize(
    "kind",
    [
        PLAIN,
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": ["q_proj", "down_proj"], "use_dora": True, "r": 2},
    ],
    ids=["plain", "in the head", "with a head of its own", "DoRA"],
)
def test_what_trl_kept_in_ref_is_the_reference(tmp_path: Path, kind: dict[str, Any]) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts)
    base = run / "base"
    for name in NAMES:
        new_adapter(base, run / name / "ref", seed=99, **kind)
    policies = {n: passed(base, run / n, rollouts) for n in NAMES}
    reference = passed(base, run / "checkpoint-10/ref", rollouts)
    found = scored(loaded(run), rollouts, NAMES, batch_tokens=40)
    check(found, rollouts, policies, dict.fromkeys(NAMES, reference))

    # The wrong reference is another number, and what was asked for is what is taken.
    off = scored(loaded(run, "base"), rollouts, NAMES)
    check(off, rollouts, policies, dict.fromkeys(NAMES, passed(base, None, rollouts)))
    for column in ("residual", "kl_exact", "ref_logprob"):
        pairs = [(getattr(found[k], column), getattr(off[k], column)) for k in found]
        assert max(np.abs(a - b).max() for a, b in pairs) > 0.01


def test_references_that_differ_are_each_its_own_checkpoints(tmp_path: Path) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts)
    base = run / "base"
    for i, name in enumerate(NAMES):
        new_adapter(base, run / name / "ref", seed=90 + i, **PLAIN)
    policies = {n: passed(base, run / n, rollouts) for n in NAMES}
    references = {n: passed(base, run / n / "ref", rollouts) for n in NAMES}
    check(scored(loaded(run), rollouts, NAMES), rollouts, policies, references)


@pytest.mark.parametrize(("seeds", "extra"), [((5, 5), 1), ((5, 6), 2)])
def test_equal_references_cost_one_pass(tmp_path: Path, seeds: tuple[int, int], extra: int) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts)
    for name, seed in zip(NAMES, seeds, strict=True):
        new_adapter(run / "base", run / name / "ref", seed=seed, **PLAIN)
    heard: list[int] = []

    class Listener(Silent):
        def start(self, total: int, unit: str) -> None:
            assert unit == "tokens"
            heard.append(-total)

        def advance(self, done: int) -> None:
            heard.append(done)

    work = [Work(rollout=r, checkpoints=tuple(NAMES)) for r in rollouts]
    list(replay(loaded(run), plan(work, 90), temperature=1.0, progress=Listener()))
    real = sum(len(r.prompt_ids + r.completion_ids) - 1 for r in rollouts)
    assert heard[0] == -(2 + extra) * real
    assert sum(heard) == 0


def test_a_fresh_ref_gives_what_the_adapter_off_gives(tmp_path: Path) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts, steps=(10,))
    folder = new_adapter(run / "base", run / "checkpoint-10/ref", **PLAIN)
    weights = folder / "adapter_model.safetensors"
    save_file({k: 0 * v if ".lora_B." in k else v for k, v in load_file(weights).items()}, weights)
    found, off = (
        scored(loaded(run, asked), rollouts, ["checkpoint-10"])
        for asked in ("ref-adapter", "adapter-off")
    )
    for key in found:
        assert_same(found[key], off[key], rtol=1e-12, atol=1e-12)


def test_pissa_checkpoints_in_a_run_are_measured_from_the_base(tmp_path: Path) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts, steps=())
    base = run / "base"
    starts = [
        special_adapter(base, run / name, seed=i, init_lora_weights="pissa")[1]
        for i, name in enumerate(NAMES)
    ]
    policies = {
        n: {r.id: plain_pass(summed(base, run / n, s), r) for r in rollouts}
        for n, s in zip(NAMES, starts, strict=True)
    }
    found = scored(loaded(run), rollouts, NAMES)
    check(found, rollouts, policies, dict.fromkeys(NAMES, passed(base, None, rollouts)))

    # A start that was saved beside the checkpoints is the one that is taken.
    shutil.copytree(starts[0], run / "pissa_init")
    weights = run / "pissa_init/adapter_model.safetensors"
    save_file({k: v + 0.05 for k, v in load_file(weights).items()}, weights)
    policies = {
        n: {r.id: plain_pass(summed(base, run / n, run / "pissa_init"), r) for r in rollouts}
        for n in NAMES
    }
    found = scored(loaded(run), rollouts, NAMES)
    check(found, rollouts, policies, dict.fromkeys(NAMES, passed(base, None, rollouts)))


def test_a_folder_with_an_adapter_is_the_reference(tmp_path: Path) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts)
    sft = new_adapter(run / "base", tmp_path / "sft-1.5", seed=7, target_modules=["v_proj"])
    policies = {n: passed(run / "base", run / n, rollouts) for n in NAMES}
    found = scored(loaded(run, str(sft)), rollouts, NAMES)
    reference = passed(run / "base", sft, rollouts)
    check(found, rollouts, policies, dict.fromkeys(NAMES, reference))


def test_the_adapter_of_step_0_is_the_reference(tmp_path: Path) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts)
    start = new_adapter(run / "base", run / "checkpoint-0", init_lora_weights=False, **PLAIN)
    policies = {n: passed(run / "base", run / n, rollouts) for n in NAMES}
    found = scored(loaded(run, "init-adapter"), rollouts, NAMES)
    reference = passed(run / "base", start, rollouts)
    check(found, rollouts, policies, dict.fromkeys(NAMES, reference))


def test_a_pissa_reference_from_elsewhere_has_its_own_start(tmp_path: Path) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts, steps=())
    base = run / "base"
    _, start = special_adapter(base, run / "checkpoint-10", init_lora_weights="pissa")
    shutil.copytree(start, run / "pissa_init")
    weights = run / "pissa_init/adapter_model.safetensors"
    save_file({k: v + 0.05 for k, v in load_file(weights).items()}, weights)
    other, begun = special_adapter(base, tmp_path / "sft", seed=5, init_lora_weights="pissa")
    reference, policy = (
        {r.id: plain_pass(summed(base, *pair), r) for r in rollouts}
        for pair in ((other, begun), (run / "checkpoint-10", run / "pissa_init"))
    )
    found = scored(loaded(run, str(other)), rollouts, ["checkpoint-10"])
    check(found, rollouts, {"checkpoint-10": policy}, {"checkpoint-10": reference})


def test_another_model_is_the_reference(tmp_path: Path) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts)
    other = small_llama(tmp_path / "other", layers=1)
    policies = {n: passed(run / "base", run / n, rollouts) for n in NAMES}
    model = loaded(run, str(other))
    assert model.head_is_adapted
    found = scored(model, rollouts, NAMES)
    reference = passed(other, None, rollouts)
    check(found, rollouts, policies, dict.fromkeys(NAMES, reference))


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"width": 32}, "hidden_size 32, and the base 16"), ({}, "vocab_size 23, and the base 19")],
)
def test_a_model_that_cannot_be_compared_is_refused(
    tmp_path: Path, settings: dict[str, Any], says: str
) -> None:
    run = a_run(tmp_path / "run", random_rollouts(19))
    other = small_llama(tmp_path / "other", **settings)
    if not settings:
        model = AutoModelForCausalLM.from_pretrained(other)
        model.resize_token_embeddings(23, mean_resizing=False)
        model.save_pretrained(other)
    with pytest.raises(ArcaError, match=says):
        loaded(run, str(other))


def test_a_reference_that_does_not_fit_the_base_stops_the_scan(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", random_rollouts(19))
    deep = small_llama(tmp_path / "deep", layers=3)
    new_adapter(deep, run / "checkpoint-10/ref", **PLAIN)
    with pytest.raises(ArcaError, match="the reference adapter cannot be used") as caught:
        loaded(run)
    assert "checkpoint-10/ref" in str(caught.value)
    assert "--reference base" in caught.value.hint


@pytest.mark.slow
def test_the_report_names_the_reference_and_a_changed_one_is_another_scan(
    tmp_path: Path,
) -> None:
    rollouts = random_rollouts(19)
    run = a_run(tmp_path / "run", rollouts)
    for name in NAMES:
        new_adapter(run / "base", run / name / "ref", seed=99, **PLAIN)

    def scan(asked: str, **more: Any) -> Any:
        given = options(run, asked) | {"dtype": "float32", "device": "cpu"} | more
        return diagnose(resolve(given, environ=UNRENDERED, cwd=tmp_path))

    report = scan("auto").report
    assert report.reference.kind == "ref-adapter"
    assert report.reference.reason == "training kept its reference adapter in checkpoint-10/ref"
    assert not [f for f in report.findings if f.id == "reference-uncertain"]
    assert report.provenance.options["reference"] == "ref-adapter"
    assert {"checkpoint-10/ref"} <= set(report.provenance.inputs)
    assert scan("ref-adapter").did == "nothing new"
    with pytest.raises(ArcaError, match="reference was 'ref-adapter', now 'base'"):
        scan("base")

    new_adapter(run / "base", run / "checkpoint-10/ref", seed=98, **PLAIN)
    with pytest.raises(ArcaError, match="checkpoint-10/ref has changed"):
        scan("auto")
    report = scan("auto", force=True).report
    (finding,) = [f for f in report.findings if f.id == "reference-uncertain"]
    assert "checkpoint-10/ref and checkpoint-20/ref differ" in finding.message
    assert str(tmp_path) not in report.to_json()

    report = scan(str(run / "checkpoint-20/ref"), out=tmp_path / "out").report
    assert (report.reference.kind, report.provenance.options["reference"]) == ("path", "path")
    assert str(tmp_path) not in report.to_json()
