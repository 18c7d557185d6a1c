"""A base laid out over several places: the numbers of one that is whole, or a refusal."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from arca_diag.config import ScanConfig, resolve
from arca_diag.errors import ArcaError, CheckpointError, ConfigError
from arca_diag.inputs import models
from arca_diag.inputs.adapters import read_adapter
from arca_diag.inputs.base import Base
from arca_diag.inputs.models import SPREAD, load_model
from arca_diag.inputs.runs import Checkpoint
from arca_diag.pipeline import diagnose
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work, plan
from arca_diag.replay.forward import replay
from arca_diag.replay.gradients import check_memory
from arca_diag.replay.layers import layer_residuals
from arca_diag.replay.sharing import can_share
from arca_diag.replay.spread import computes_on, end, entry, kinds, waits
from arca_diag.together import Team, diagnose_together
from tests.replay.test_forward import assert_same, new_adapter, sampled, small_llama
from tests.replay.test_sharing import groups

#: Two of the sample's three layers wait on disk, and the embedding or the head's side does not.
SPLIT = {
    "model.embed_tokens": "cpu",
    "lm_head": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.norm": "cpu",
}
#: Of a base with two layers whose head is its own: all but the first layer waits.
ALL_BUT_ONE = {
    "model.embed_tokens": "disk",
    "lm_head": "disk",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "disk",
}


def loaded(
    folder: Path, *checkpoints: Path, device: Any, dtype: torch.dtype = torch.float32
) -> AdaptedModel:
    base = Base(name="base", folder=folder, gguf_file=None, revision=None)
    model = AdaptedModel(load_model(base, dtype, device))
    for path in checkpoints:
        model.add(read_adapter(Checkpoint(name=path.name, step=None, path=path)))
    return model


def replayed(model: AdaptedModel, names: list[str], rollouts: Any) -> list[Any]:
    work = [Work(rollout=r, checkpoints=tuple(names), fixed=True) for r in rollouts]
    batches = plan(work, 256, share=True)
    assert not all(b.chains for b in batches)
    return list(replay(model, batches, temperature=0.7, progress=Silent()))


@pytest.mark.parametrize("device", [SPREAD, {"": "cpu"}, SPLIT], ids=["auto", "one", "disk"])
def test_laid_out_over_several_places_the_numbers_are_those_of_a_whole_base(
    tiny_run: Path, device: Any
) -> None:
    steps = [tiny_run / f"checkpoint-{step}" for step in (2, 100)]
    names, rollouts = [path.name for path in steps], sampled(tiny_run, 21)[::9]
    whole = loaded(tiny_run / "base", *steps, device="cpu")
    parts = loaded(tiny_run / "base", *steps, device=device)
    assert waits(parts.base) == (device is SPLIT)
    assert parts.devices == "cpu"
    assert can_share(parts, 64)
    found, truth = (replayed(model, names, rollouts) for model in (parts, whole))
    assert len(found) == 2 * len(rollouts)
    for one, other in zip(found, truth, strict=True):
        assert (one.rollout.id, one.checkpoint) == (other.rollout.id, other.checkpoint)
        assert_same(one, other, rtol=1e-6, atol=1e-6)
    chosen = {name: tuple(rollouts[:2]) for name in names}
    layers = [list(layer_residuals(model, chosen, Silent())) for model in (parts, whole)]
    assert len(layers[0]) == len(layers[1]) == 2 * 2 * 5
    for one, other in zip(*layers, strict=True):
        np.testing.assert_allclose(one.residual, other.residual, rtol=1e-6, atol=1e-6)


def test_embedding_and_head_may_wait_as_well(tmp_path: Path) -> None:
    base = small_llama(tmp_path / "base")
    path = new_adapter(base, tmp_path / "adapter", target_modules=["q_proj", "lm_head"])
    found, truth = (
        replayed(loaded(base, path, device=device), [path.name], groups(19))
        for device in (ALL_BUT_ONE, "cpu")
    )
    for one, other in zip(found, truth, strict=True):
        assert_same(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"use_dora": True}, "is DoRA"),
        ({"init_lora_weights": "pissa"}, "is pissa"),
        ({"bias": "lora_only"}, "trains biases"),
        ({"modules_to_save": ["down_proj"]}, r"trains .*modules_to_save.* whole"),
    ],
)
def test_an_adapter_that_looks_at_weights_that_wait_is_refused(
    tmp_path: Path, options: Any, said: str
) -> None:
    base = small_llama(tmp_path / "base", attention_bias=True)
    path = new_adapter(base, tmp_path / "adapter", target_modules=["q_proj"], **options)
    with pytest.raises(CheckpointError, match=said):
        loaded(base, path, device=ALL_BUT_ONE)
    loaded(base, path, device={"": "cpu"})


def test_there_are_no_gradients_through_weights_that_wait(tiny_run: Path) -> None:
    chosen = {"checkpoint-2": tuple(sampled(tiny_run, 3)[:1])}
    model = loaded(tiny_run / "base", tiny_run / "checkpoint-2", device=SPLIT)
    with pytest.raises(ArcaError, match="no gradients"):
        check_memory(model, chosen)


@pytest.mark.slow
def test_a_scan_over_a_base_laid_out_by_accelerate_is_that_of_a_whole_one(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"groups": 1, "fixed_groups": 1, "checkpoints": "20"}
    whole = diagnose(
        ScanConfig(run=tiny_run, out=tmp_path / "whole", no_cache=True, **options)
    ).report
    seen: list[dict[str, Any]] = []
    plain = AutoModelForCausalLM.from_pretrained

    def with_little_memory(*args: Any, **kwargs: Any) -> Any:
        # About two thirds of what it takes: the rest goes to the disk.
        kwargs["max_memory"] = {"cpu": 1_000_000 if kwargs["dtype"] == torch.float32 else 2_000_000}
        model = plain(*args, **kwargs)
        seen.append(model.hf_device_map)
        return model

    monkeypatch.setattr(
        models.transformers.AutoModelForCausalLM, "from_pretrained", with_little_memory
    )
    config = ScanConfig(
        run=tiny_run, out=tmp_path / "spread", no_cache=True, device_map="auto", **options
    )
    spread = diagnose(config).report
    assert [set(places.values()) for places in seen] == [{"cpu", "disk"}] * 2
    assert whole is not None
    assert spread is not None
    assert spread.provenance.device == "cpu"
    assert spread.provenance.options["device_map"] == "auto"
    assert len(spread.measurements) == len(whole.measurements)
    for one, other in zip(spread.measurements, whole.measurements, strict=True):
        assert (one.value is None) == (other.value is None)
        if one.value is not None and other.value is not None and not one.name.startswith("noise"):
            assert one.value == pytest.approx(other.value, rel=1e-5, abs=1e-5), one.name


# Where a part computes.


def hooked(device: Any) -> torch.nn.Module:
    module = torch.nn.Linear(1, 1, device="meta")
    module._hf_hook = SimpleNamespace(execution_device=device)
    return module


def test_a_part_computes_where_its_hook_says_and_else_where_its_weights_are() -> None:
    assert computes_on(hooked(1)) == torch.device("cuda", 1)
    assert computes_on(hooked("cpu")) == torch.device("cpu")
    assert computes_on(torch.nn.Linear(1, 1)) == torch.device("cpu")
    assert computes_on(torch.nn.Sequential(hooked("cuda:2"))) == torch.device("cuda", 2)
    model = torch.nn.Sequential(hooked("cuda:0"), hooked(1), torch.nn.Linear(1, 1))
    assert kinds(model) == "cpu+cuda"
    model.get_input_embeddings = lambda: model[0]
    model.get_output_embeddings = lambda: model[2]
    assert (entry(model), end(model)) == (torch.device("cuda", 0), torch.device("cpu"))


def test_a_device_that_is_named_and_a_layout_over_all_contradict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"device-map auto .* device cpu names one"):
        resolve({"run": tmp_path, "device": "cpu", "device_map": "auto"}, environ={}, cwd=tmp_path)
    resolve({"run": tmp_path, "device_map": "auto"}, environ={}, cwd=tmp_path)


def test_processes_of_a_launcher_cannot_each_have_every_device(tiny_run: Path) -> None:
    config = ScanConfig(run=tiny_run, device_map="auto")
    with pytest.raises(ConfigError, match="2 processes"):
        diagnose_together(config, Team(rank=0, size=2, local=0), Silent())
