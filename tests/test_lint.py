import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.findings import together
from arca_diag.inputs.adapters import Adapter, open_adapter, read_adapter
from arca_diag.inputs.checkpoints import Checkpoint
from arca_diag.inputs.updates import layer_updates
from arca_diag.lint import RULES, LintContext
from arca_diag.lint import lint as told_of
from arca_diag.results import Finding
from arca_diag.thresholds import ADAPTER_THRESHOLDS, DEFAULT
from tests.conftest import ROOT
from tests.inputs import edit_json, write_adapter


@dataclass(frozen=True, kw_only=True)
class Context(LintContext):
    """And whether values are looked at."""

    tensors: bool = True


HERE = Context(peft_version="0.21.2")
NO_BASE = ArcaError("the base 'x/y' is nowhere", hint="give it with --base")
HEADERS = replace(HERE, tensors=False)
NAN = float("nan")

LAYERS = [f"model.layers.{n}.{m}" for n in range(3) for m in ("q_proj", "v_proj")]
PEFT_WRITES = {
    "use_rslora": False,
    "target_modules": ["q_proj", "v_proj"],
    "peft_version": "0.21.2",
}


def key(layer: str, side: str) -> str:
    return f"base_model.model.{layer}.lora_{side}.weight"


B = [key(layer, "B") for layer in LAYERS]
Tensors = dict[str, torch.Tensor]


def trained(seed: int = 0) -> Tensors:
    """A and B of six layers, all of them moved."""
    draw = torch.Generator().manual_seed(seed)
    return {
        key(layer, side): torch.randn(shape, generator=draw)
        for layer in LAYERS
        for side, shape in (("A", (2, 5)), ("B", (4, 2)))
    }


def fresh() -> Tensors:
    """As PEFT begins: B is zero."""
    return {k: v if ".lora_A." in k else torch.zeros_like(v) for k, v in trained().items()}


def adapter(
    root: Path, step: int | None, tensors: Tensors | None = None, layout: str = "hf", **config: Any
) -> Adapter:
    """A checkpoint as PEFT writes it; None as an option of the configuration removes it."""
    name = "adapter" if step is None else f"checkpoint-{step}"
    tensors = trained(step or 0) if tensors is None else tensors
    checkpoint = write_adapter(root / name, PEFT_WRITES | config, tensors)
    edit_json(checkpoint.path / "adapter_config.json", **(PEFT_WRITES | config))
    return open_adapter(replace(checkpoint, layout=layout))


def lint(adapters: tuple[Adapter, ...], context: Context) -> list[Finding]:
    known = {a.checkpoint.name: layer_updates(a) for a in adapters} if context.tensors else None
    return told_of(adapters, context, known)


def told(*adapters: Adapter, context: Context = HERE) -> dict[tuple[str, Any], str]:
    """(Id, checkpoint) -> level of every finding."""
    return {(f.id, f.checkpoint): f.level for f in lint(adapters, context)}


def the_finding(*adapters: Adapter, context: Context = HERE) -> Finding:
    (finding,) = lint(adapters, context)
    return finding


def sample(name: str) -> list[Adapter]:
    folders = (ROOT / "sample_runs" / name).glob("checkpoint-*")
    steps = {int(folder.name.removeprefix("checkpoint-")): folder for folder in folders}
    return [
        open_adapter(Checkpoint(name=path.name, step=step, path=path))
        for step, path in sorted(steps.items())
    ]


class Net(torch.nn.Module):
    """A model small enough to train in a test."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(11, 6)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({"up": torch.nn.Linear(6, 8), "down": torch.nn.Linear(8, 6)})
            for _ in range(4)
        )
        self.head = torch.nn.Linear(6, 11)

    def forward(self, ids):
        x = self.embed(ids)
        for layer in self.layers:
            x = x + layer["down"](torch.tanh(layer["up"](x)))
        return self.head(x)


def train(root: Path, steps: int, **lora: Any) -> Adapter:
    """An adapter after so many steps of AdamW, as PEFT saves it."""
    path = root / f"checkpoint-{steps}"
    with warnings.catch_warnings(action="ignore"):
        model = get_peft_model(Net(), LoraConfig(**lora))
        ids = torch.arange(11)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(steps):
            loss = torch.nn.functional.cross_entropy(model(ids), (ids * 3) % 11)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(path)
    return open_adapter(Checkpoint(name=path.name, step=steps, path=path))


class TestHealthy:
    @pytest.mark.parametrize(("name", "count"), [("tiny-addition", 6), ("smollm2-addition", 5)])
    @pytest.mark.parametrize("context", [HERE, HEADERS], ids=["values", "headers"])
    def test_every_checkpoint_of_the_samples_together_and_alone(self, name, count, context):
        adapters = sample(name)
        assert len(adapters) == count
        assert lint(tuple(adapters), context) == []
        assert [lint((one,), context) for one in adapters] == [[]] * count

    def test_adapters_read_whole_are_judged_alike(self):
        adapters = [read_adapter(a.checkpoint) for a in sample("tiny-addition")]
        assert lint(tuple(adapters), HERE) == []

    def test_a_run_from_its_first_step_on(self, tmp_path):
        run = [adapter(tmp_path, 0, fresh()), *(adapter(tmp_path, n) for n in (1, 2, 3))]
        assert set(told(*run).values()) <= {"note"}
        for one in run:
            assert set(told(one).values()) <= {"note"}

    def test_a_warm_up_whose_first_rate_is_zero(self, tmp_path):
        steps = {0: fresh(), 1: fresh(), 2: trained()}
        run = [adapter(tmp_path, step, tensors) for step, tensors in steps.items()]
        assert set(told(*run).values()) == {"note"}
        assert set(told(*run[1:]).values()) == {"note"}

    def test_first_batches_without_any_advantage(self, tmp_path):
        steps = {5: fresh(), 9: fresh(), 12: trained()}
        run = [adapter(tmp_path, step, tensors) for step, tensors in steps.items()]
        assert told(*run) == {
            ("adapter-inert", 5): "note",
            ("adapter-inert", 9): "note",
            ("adapter-unchanged", 5): "note",
            ("adapter-unchanged", 9): "note",
        }
        steps = {15: trained(1), 19: trained(1), 22: trained(2)}
        run = [adapter(tmp_path, step, tensors) for step, tensors in steps.items()]
        for one in run:
            write_adapter(one.checkpoint.path / "ref", PEFT_WRITES, trained(1))
        assert told(*run) == {("adapter-unchanged", step): "note" for step in (15, 19)}

    def test_a_warm_up_of_a_run_that_continues_an_adapter(self, tmp_path):
        steps = {0: trained(7), 1: trained(7), 2: trained(8)}
        run = [adapter(tmp_path, step, tensors) for step, tensors in steps.items()]
        assert told(*run) == {("adapter-unchanged", step): "note" for step in (0, 1)}
        for one in run:
            shutil.copytree(run[0].checkpoint.path, one.checkpoint.path / "ref")
        assert told(*run) == {("adapter-unchanged", step): "note" for step in (0, 1)}

    @pytest.mark.parametrize(
        "lora",
        [
            {},
            {"use_dora": True},
            {"use_rslora": True},
            {"init_lora_weights": "pissa"},
            {"init_lora_weights": "olora"},
            {"init_lora_weights": False},
            {"init_lora_weights": "gaussian"},
            {"target_modules": ["embed", "up"]},
            {"target_modules": r".*\.(up|down)"},
            {"target_modules": ["up", "down"], "exclude_modules": ["layers.0.up"]},
            {"target_modules": ["up"], "layers_to_transform": [1, 3], "layers_pattern": "layers"},
            {"modules_to_save": ["head"]},
            {"trainable_token_indices": {"embed": [1, 2]}},
            {"bias": "lora_only"},
            {"lora_bias": True},
            {"rank_pattern": {"up": 3}, "alpha_pattern": {"down": 1}},
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("steps", [0, 1, 3])
    def test_what_peft_saves_before_and_after_real_steps(self, tmp_path, lora, steps):
        run = train(tmp_path, steps, **({"r": 2, "target_modules": ["up", "down"]} | lora))
        levels = told(run)
        assert set(levels.values()) <= {"note"}
        if steps:
            assert levels == {}

    def test_a_run_that_trained_whole_modules_alone(self, tmp_path):
        head = {"base_model.model.lm_head.weight": torch.ones(3, 3)}
        run = adapter(tmp_path, 3, fresh() | head, modules_to_save=["lm_head"])
        finding = the_finding(run)
        assert (finding.id, finding.level) == ("layers-dead", "note")
        assert finding.evidence["dead"] == finding.evidence["layers"] == 6

    def test_no_adapter(self):
        assert lint((), replace(HERE, base_fault=NO_BASE)) == []


class TestInert:
    def test_a_zero_b_is_an_error_and_a_note_at_step_0(self, tmp_path):
        finding = the_finding(adapter(tmp_path, 5, fresh()))
        assert (finding.id, finding.level, finding.checkpoint) == ("adapter-inert", "error", 5)
        assert finding.evidence["tensors"] == B
        assert finding.evidence["n_tensors"] == 6
        assert "is_trainable=True" in finding.action
        assert told(adapter(tmp_path, 0, fresh())) == {("adapter-inert", 0): "note"}
        assert told(adapter(tmp_path, None, fresh())) == {("adapter-inert", "adapter"): "error"}

    def test_the_zero_side_of_an_embedding_is_a(self, tmp_path):
        table = "base_model.model.embed_tokens.lora_embedding_"
        sides = {f"{table}A": torch.zeros(2, 9), f"{table}B": torch.ones(4, 2)}
        finding = the_finding(adapter(tmp_path, 5, sides, target_modules=["embed_tokens"]))
        assert (finding.id, finding.level) == ("adapter-inert", "error")
        assert finding.evidence["tensors"] == [f"{table}A"]

    def test_one_that_stops_acting_later_is_an_error(self, tmp_path):
        run = adapter(tmp_path, 5), adapter(tmp_path, 9, fresh()), adapter(tmp_path, 12)
        assert told(*run) == {("adapter-inert", 9): "error"}

    def test_alpha_0_is_told_from_the_configuration_alone(self, tmp_path):
        finding = the_finding(adapter(tmp_path, 5, lora_alpha=0), context=HEADERS)
        assert (finding.id, finding.level) == ("adapter-inert", "error")
        assert finding.evidence["alpha"] == 0
        assert "verl" in finding.action

    def test_alpha_0_that_a_pattern_mends_is_none(self, tmp_path):
        run = adapter(tmp_path, 5, lora_alpha=0, alpha_pattern={"q_proj": 4})
        assert told(run, context=HEADERS) == {}
        assert told(run) == {("layers-dead", 5): "warn"}

    @pytest.mark.parametrize(
        "rename",
        [
            lambda k: k.removeprefix("base_model.model."),
            lambda k: k.replace(".weight", ".default.weight"),
            lambda k: k.replace("layers", "_orig_mod.layers"),
        ],
        ids=["no-prefix", "adapter-name", "compiled"],
    )
    def test_names_that_peft_would_not_place(self, tmp_path, rename):
        tensors = {rename(k): v for k, v in trained().items()}
        finding = the_finding(adapter(tmp_path, 5, tensors), context=HEADERS)
        assert (finding.id, finding.level) == ("adapter-inert", "error")
        assert finding.evidence["n_tensors"] == 12
        assert set(finding.evidence["tensors"]) <= set(tensors)
        assert "save_pretrained" in finding.action

    def test_names_as_prime_rl_writes_them_are_its_way(self, tmp_path):
        tensors = {k.removeprefix("base_model.model."): v for k, v in trained().items()}
        assert told(adapter(tmp_path, 5, tensors, layout="prime-rl")) == {}

    def test_peft_itself_places_none_of_those_names(self, tmp_path):
        found = train(tmp_path, 2, r=2, target_modules=["up", "down"])
        path = found.checkpoint.path / "adapter_model.safetensors"
        odd = {k.removeprefix("base_model.model."): v for k, v in load_file(path).items()}
        save_file(odd, path)
        ids = torch.arange(11)
        with warnings.catch_warnings(action="ignore"):
            loaded = PeftModel.from_pretrained(Net(), found.checkpoint.path)
        assert torch.equal(loaded(ids), Net()(ids))
        assert told(open_adapter(found.checkpoint)) == {("adapter-inert", 2): "error"}

    def test_some_of_those_names_are_an_error_of_their_own(self, tmp_path):
        tensors = trained()
        tensors[B[0].replace(".weight", ".default.weight")] = tensors.pop(B[0])
        finding = the_finding(adapter(tmp_path, 5, tensors), context=HEADERS)
        assert (finding.id, finding.level) == ("keys-unmatched", "error")
        assert finding.evidence["tensors"] == [B[0].replace(".weight", ".default.weight")]

    def test_modules_that_are_no_target_are_left_out_too(self, tmp_path):
        run = adapter(tmp_path, 5, target_modules=["q_proj"])
        finding = the_finding(run, context=HEADERS)
        assert finding.id == "keys-unmatched"
        assert finding.evidence["n_tensors"] == 6
        assert all("v_proj" in name for name in finding.evidence["tensors"])
        assert told(adapter(tmp_path, 6, target_modules=["proj"])) == {
            ("adapter-inert", 6): "error"
        }

    def test_a_tensor_that_is_odd_and_no_target_counts_once(self, tmp_path):
        tensors = {k.removeprefix("base_model.model."): v for k, v in trained().items()}
        run = adapter(tmp_path, 5, tensors, target_modules=["q_proj"])
        assert the_finding(run, context=HEADERS).evidence["n_tensors"] == 12

    def test_an_update_that_is_not_known_may_act(self, tmp_path):
        tensors = fresh() | {B[0]: torch.full((4, 2), NAN)}
        assert set(told(adapter(tmp_path, 5, tensors))) == {
            ("adapter-broken", 5),
            ("layers-dead", 5),
        }

    @pytest.mark.parametrize(
        "config",
        [
            {"modules_to_save": ["lm_head"]},
            {"trainable_token_indices": [3]},
            {"bias": "all"},
            {"lora_bias": True},
            {"use_dora": True},
        ],
        ids=repr,
    )
    def test_beside_something_else_that_was_trained_it_may_act(self, tmp_path, config):
        assert told(adapter(tmp_path, 5, fresh(), **config)) == {("layers-dead", 5): "note"}
        assert told(adapter(tmp_path, 0, fresh(), **config)) == {}

    def test_what_the_replay_says_of_it_is_told_once(self, tmp_path):
        finding = the_finding(adapter(tmp_path, 5, fresh()))
        replayed = finding.model_copy(update={"evidence": {"n_tokens": 7}})
        (merged,) = together([finding], [replayed])
        assert merged.evidence["n_tokens"] == 7
        assert merged.evidence["n_tensors"] == 6


class TestUnchanged:
    def test_checkpoints_of_the_same_bytes(self, tmp_path):
        run = [adapter(tmp_path, step, trained(1)) for step in (10, 20, 30)]
        assert told(*run) == {("adapter-unchanged", step): "error" for step in (10, 20, 30)}
        finding = lint(tuple(run), HERE)[0]
        names = ["checkpoint-10", "checkpoint-20", "checkpoint-30"]
        assert finding.evidence["checkpoints"] == names
        assert finding.evidence["sha256"] == run[0].sha256
        assert finding.evidence["n_tensors"] == 12
        assert "6701" in finding.source
        assert lint(tuple(run), HEADERS) == []

    def test_two_that_were_trained_and_are_equal_are_an_error_wherever_they_stand(self, tmp_path):
        run = [adapter(tmp_path, s, trained(t)) for s, t in ((10, 1), (20, 1), (30, 2), (40, 2))]
        assert told(*run, adapter(tmp_path, 50)) == {
            ("adapter-unchanged", step): "error" for step in (10, 20, 30, 40)
        }

    def test_a_fresh_one_that_is_never_trained_is_inert_too(self, tmp_path):
        run = [adapter(tmp_path, step, fresh()) for step in (10, 20)]
        assert told(*run) == {
            ("adapter-inert", 10): "error",
            ("adapter-inert", 20): "error",
            ("adapter-unchanged", 10): "error",
            ("adapter-unchanged", 20): "error",
        }

    def test_one_that_equals_its_own_ref(self, tmp_path):
        run = adapter(tmp_path, 10)
        write_adapter(run.checkpoint.path / "ref", PEFT_WRITES, trained(10))
        finding = the_finding(run)
        assert (finding.id, finding.level) == ("adapter-unchanged", "error")
        assert finding.evidence["like_ref"] == ["checkpoint-10"]

    def test_it_is_the_values_that_are_compared_with_ref(self, tmp_path):
        run = adapter(tmp_path, 10)
        path = write_adapter(run.checkpoint.path / "ref", {}, trained(10)).path
        save_file(trained(10), path / "adapter_model.safetensors", metadata={"format": "pt"})
        assert open_adapter(replace(run.checkpoint, path=path)).sha256 != run.sha256
        assert told(run) == {("adapter-unchanged", 10): "error"}

    @pytest.mark.parametrize("but", [B[0], None], ids=["one value", "one tensor"])
    def test_one_that_moved_away_from_its_ref(self, tmp_path, but):
        run, ref = adapter(tmp_path, 10), trained(10)
        if but:
            ref[but][0, 0] += 1e-3
        else:
            del ref[B[0]]
        write_adapter(run.checkpoint.path / "ref", PEFT_WRITES, ref)
        assert told(run) == {}

    def test_at_step_0_it_is_where_it_began(self, tmp_path):
        run = adapter(tmp_path, 0)
        write_adapter(run.checkpoint.path / "ref", PEFT_WRITES, trained(0))
        assert told(run) == {("adapter-unchanged", 0): "note"}

    def test_a_ref_that_cannot_be_read_is_not_equal(self, tmp_path):
        run = adapter(tmp_path, 10)
        path = write_adapter(run.checkpoint.path / "ref", PEFT_WRITES, trained(10)).path
        (path / "adapter_model.safetensors").write_bytes(b"x" * 100)
        assert told(run) == {}


class TestBrokenAndSharded:
    @pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
    def test_nan_and_infinity_are_counted_by_tensor(self, tmp_path, bad):
        tensors = trained() | {"base_model.model.lm_head.weight": torch.ones(3, 3)}
        tensors[B[0]][0] = bad
        tensors["base_model.model.lm_head.weight"][1, 1] = bad
        run = adapter(tmp_path, 5, tensors, modules_to_save=["lm_head"])
        finding = the_finding(run)
        assert (finding.id, finding.level) == ("adapter-broken", "error")
        assert finding.evidence["tensors"] == {B[0]: 2, "base_model.model.lm_head.weight": 1}
        assert finding.evidence["n_values"] == 3
        json.dumps(finding.evidence, allow_nan=False)
        assert lint((run,), HEADERS) == []

    @pytest.mark.parametrize("shape", [(6,), (0, 5), (), (2, 0)], ids=str)
    def test_shards_are_told_from_the_header(self, tmp_path, shape):
        tensors = trained() | {key(LAYERS[1], "A"): torch.ones(shape)}
        run = adapter(tmp_path, 5, tensors)
        finding = the_finding(run, context=HEADERS)
        assert (finding.id, finding.level) == ("adapter-sharded", "error")
        assert finding.evidence["tensors"] == {key(LAYERS[1], "A"): list(shape)}
        assert "stage3_gather_16bit_weights_on_model_save" in finding.action
        assert told(run) == {("adapter-sharded", 5): "error"}

    def test_a_shard_of_an_embedding(self, tmp_path):
        table = "base_model.model.embed_tokens.lora_embedding_"
        sides = {f"{table}A": torch.ones(18), f"{table}B": torch.ones(4, 2)}
        run = adapter(tmp_path, 5, trained() | sides, target_modules=["proj", "embed_tokens"])
        edit_json(run.checkpoint.path / "adapter_config.json", target_modules=None)
        assert told(open_adapter(run.checkpoint)) == {("adapter-sharded", 5): "error"}


class TestRslora:
    def test_a_configuration_without_the_flag_is_a_suspicion(self, tmp_path):
        finding = the_finding(adapter(tmp_path, 5, lora_alpha=6, use_rslora=None), context=HEADERS)
        assert (finding.id, finding.level) == ("rslora-lost", "note")
        assert "suspected" in finding.message
        assert finding.evidence["scale"] == 3
        assert finding.evidence["scale_if_rslora"] == pytest.approx(6 / math.sqrt(2))
        assert '"use_rslora": true' in finding.action

    def test_that_another_checkpoint_has_it_makes_it_a_warning(self, tmp_path):
        run = adapter(tmp_path, 5, use_rslora=True), adapter(tmp_path, 9, use_rslora=None)
        finding = the_finding(*run)
        assert (finding.id, finding.level) == ("rslora-lost", "warn")
        assert finding.evidence["with_rslora"] == ["checkpoint-5"]
        assert finding.evidence["checkpoints"] == ["checkpoint-9"]

    def test_verl_s_merger_writes_the_default_of_the_flag(self, tmp_path):
        merged = adapter(tmp_path, 5, layout="verl", base_model_name_or_path=None)
        assert told(merged) == {("rslora-lost", None): "note"}
        assert told(adapter(tmp_path, 6, layout="verl")) == {}

    def test_at_rank_1_both_are_one(self, tmp_path):
        tensors = {k: v[:1] if ".lora_A." in k else v[:, :1] for k, v in trained().items()}
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        assert told(adapter(tmp_path, 5, tensors, r=1, use_rslora=None)) == {}


class TestLayers:
    def dominated(self, root, share: float, layers: Iterable[str] = LAYERS, **config) -> Adapter:
        """The first layer has this share of the squared update."""
        layers = list(layers)
        size = math.sqrt(share / (1 - share) * (len(layers) - 1))
        tensors = {}
        for number, layer in enumerate(layers):
            tensors[key(layer, "A")] = torch.ones(2, 5)
            tensors[key(layer, "B")] = torch.full((4, 2), size if number == 0 else 1.0)
        return adapter(root, 5, tensors, **config)

    def test_one_that_carries_more_than_half(self, tmp_path):
        finding = the_finding(self.dominated(tmp_path, 0.52))
        assert (finding.id, finding.level) == ("layer-dominates", "warn")
        assert finding.evidence["share"] == pytest.approx(0.52)
        assert finding.evidence["tensors"] == [key(LAYERS[0], side) for side in "AB"]
        assert finding.evidence["norm"] > finding.evidence["median_norm"] > 0
        assert told(self.dominated(tmp_path, 0.48)) == {}

    def test_half_of_three_layers_is_no_fault(self, tmp_path):
        assert told(self.dominated(tmp_path, 0.6, LAYERS[:3])) == {}
        assert told(self.dominated(tmp_path, 0.6, LAYERS[:4])) != {}

    @pytest.mark.parametrize("init", ["pissa", "PiSSA", "olora", False])
    def test_where_the_update_includes_its_start_the_start_is_no_fault(self, tmp_path, init):
        assert told(self.dominated(tmp_path, 0.9, init_lora_weights=init)) == {}

    def test_embeddings_and_head_have_rows_of_another_number(self, tmp_path):
        layers = ["lm_head", *LAYERS]
        targets = ["lm_head", "q_proj", "v_proj"]
        assert told(self.dominated(tmp_path, 0.9, layers, target_modules=targets)) == {}

    def test_the_cut_is_data(self):
        (cut,) = ADAPTER_THRESHOLDS
        assert (cut.id, cut.value, cut.comparator) == ("layer-dominates", 0.5, ">")
        assert cut.source

    def test_another_value_of_the_cut_decides(self, tmp_path):
        dominated = self.dominated(tmp_path, 0.52)
        lax = replace(HERE, cuts=DEFAULT.replaced({"layer-dominates": 0.6}))
        assert told(dominated) == {("layer-dominates", 5): "warn"}
        assert told(dominated, context=lax) == {}

    def test_layers_whose_b_is_zero_while_others_moved(self, tmp_path):
        tensors = trained() | {k: torch.zeros(4, 2) for k in B[:2]}
        finding = the_finding(adapter(tmp_path, 5, tensors))
        assert (finding.id, finding.level) == ("layers-dead", "warn")
        assert finding.evidence["tensors"] == B[:2]
        assert (finding.evidence["dead"], finding.evidence["layers"]) == (2, 6)

    def test_experts_that_no_token_was_routed_to_are_a_note(self, tmp_path):
        layers = [f"layers.0.mlp.experts.{n}.q_proj" for n in range(3)]
        tensors = trained()
        for layer in layers:
            tensors |= {key(layer, "A"): torch.ones(2, 5), key(layer, "B"): torch.zeros(4, 2)}
        assert told(adapter(tmp_path, 5, tensors)) == {("layers-dead", 5): "note"}
        tensors[B[0]] = torch.zeros(4, 2)
        assert told(adapter(tmp_path, 5, tensors)) == {("layers-dead", 5): "warn"}


class TestConfigurationAndPlace:
    @pytest.mark.parametrize(
        ("config", "says"),
        [
            ({"target_modules": []}, "no module"),
            ({"target_modules": "", "modules_to_save": []}, "no module"),
            ({"r": 0}, "r is 0"),
            ({"layers_to_transform": [7, 9]}, r"layers_to_transform=\[7, 9\]"),
            ({"layers_to_transform": 7}, "layers_to_transform=7"),
        ],
        ids=repr,
    )
    def test_a_configuration_that_trains_nothing(self, tmp_path, config, says):
        finding = the_finding(adapter(tmp_path, 5, **config), context=HEADERS)
        assert (finding.id, finding.level) == ("nothing-trainable", "error")
        assert re.search(says, finding.message)
        assert finding.evidence["n_tensors"] == 12

    @pytest.mark.parametrize(
        "config",
        [
            {"target_modules": None},  # PEFT knows those of the model's family
            {"target_modules": [], "modules_to_save": ["head"]},
            {"target_modules": [], "trainable_token_indices": [1]},
            {"target_modules": [], "target_parameters": ["experts.up"]},
            {"target_modules": ["up"], "target_parameters": ["experts.down"]},
            {"r": 0, "rank_pattern": {"q_proj": 2, "v_proj": 2}},
            {"layers_to_transform": []},
            {"layers_to_transform": [2, 9]},
            {"layers_to_transform": 0},
            {"layers_to_transform": [[1], "x", None]},
            {"inference_mode": True},
        ],
        ids=repr,
    )
    def test_a_configuration_that_trains_something(self, tmp_path, config):
        assert told(adapter(tmp_path, 5, **config), context=HEADERS) == {}

    @pytest.mark.parametrize("newer", ["0.21.3", "0.22.0.dev0@abc", "1.0", "0.100.0"])
    def test_a_newer_peft_than_the_installed(self, tmp_path, newer):
        finding = the_finding(adapter(tmp_path, 5, peft_version=newer), context=HEADERS)
        assert (finding.id, finding.level) == ("peft-newer", "note")
        assert finding.evidence == {"saved_by": newer, "installed": "0.21.2"}
        run = [adapter(tmp_path, step, peft_version=newer) for step in (5, 9)]
        assert the_finding(*run, context=HEADERS).id == "peft-newer"

    @pytest.mark.parametrize("other", ["0.21.2", "0.9.0", "0.18", "x", "", 5, None, ["0.22"]])
    def test_an_older_peft_or_none_that_is_known(self, tmp_path, other):
        assert told(adapter(tmp_path, 5, peft_version=other), context=HEADERS) == {}

    @pytest.mark.parametrize("name", ["org/model", None])
    def test_a_base_that_is_not_here(self, tmp_path, name):
        run = adapter(tmp_path, 5, base_model_name_or_path=name)
        finding = the_finding(run, context=replace(HEADERS, base_fault=NO_BASE))
        assert (finding.id, finding.level) == ("base-missing", "note")
        assert finding.evidence == {"base": name}
        assert "is nowhere" in finding.message
        assert "--base" in finding.action


def every_fault(root: Path) -> tuple[Adapter, ...]:
    """A run with a checkpoint for each fault."""
    halved = {k: v for k, v in trained(3).items() if k != B[0]}
    dominated = trained(4)
    dominated[B[0]] *= 1e3
    return (
        adapter(root, 10, trained(1)),
        adapter(root, 20, trained(1)),  # unchanged
        adapter(root, 30, trained(2) | {B[1]: torch.full((4, 2), NAN)}),  # broken
        adapter(root, 40, halved | {B[0].replace("base_model.model.", ""): trained(3)[B[0]]}),
        adapter(root, 50, dominated),
        adapter(root, 60, trained(5) | {B[2]: torch.zeros(4, 2)}),  # a dead layer
        adapter(root, 70, trained(6) | {key(LAYERS[0], "A"): torch.ones(10)}),  # a shard
        adapter(root, 80, target_modules=[]),
        adapter(root, 90, use_rslora=None),
        adapter(root, 100, peft_version="9.0"),
        adapter(root, 110, fresh()),
    )


def test_a_run_with_every_fault_has_every_finding(tmp_path):
    run = every_fault(tmp_path)
    context = replace(HERE, base_fault=NO_BASE)
    found = lint(run, context)
    assert {(f.id, f.checkpoint) for f in found} == {
        ("adapter-unchanged", 10),
        ("adapter-unchanged", 20),
        ("adapter-broken", 30),
        ("keys-unmatched", 40),
        ("layer-dominates", 50),
        ("layers-dead", 60),
        ("adapter-sharded", 70),
        ("nothing-trainable", 80),
        ("rslora-lost", None),
        ("peft-newer", None),
        ("adapter-inert", 110),
        ("base-missing", None),
    }
    assert len({f.id for f in found}) == len(RULES)
    for finding in found:
        assert finding.action
        json.dumps(finding.evidence, allow_nan=False)
    from_headers = {f.id for f in lint(run, replace(context, tensors=False))}
    assert from_headers == {
        "keys-unmatched",
        "adapter-sharded",
        "nothing-trainable",
        "rslora-lost",
        "peft-newer",
        "base-missing",
    }


def test_headers_alone_read_no_value(tmp_path):
    class Unread(dict):
        def __getitem__(self, name):
            raise AssertionError(f"{name} was read")

        def items(self):
            raise AssertionError("values were read")

    run = [replace(a, tensors=Unread(a.tensors)) for a in every_fault(tmp_path)]
    assert lint(tuple(run), HEADERS)
    with pytest.raises(AssertionError, match="read"):
        lint(tuple(run), HERE)


@pytest.mark.parametrize("odd", ["x", "[bold]", 5, -1, 10**400, 0.5, [], [[]], {}, {"a": 1}, True])
def test_options_of_odd_types_are_no_crash(tmp_path, odd):
    names = (
        "target_modules target_parameters modules_to_save trainable_token_indices rank_pattern "
        "alpha_pattern layers_to_transform init_lora_weights use_rslora use_dora bias lora_bias "
        "peft_version base_model_name_or_path auto_mapping"
    )
    for number, name in enumerate(names.split()):
        with contextlib.suppress(CheckpointError):
            run = adapter(tmp_path, number, **{name: odd})
            for finding in lint((run,), replace(HERE, base_fault=NO_BASE)):
                json.dumps(finding.evidence, allow_nan=False)
                assert len(finding.message) < 1000


def test_no_torch_is_imported():
    code = "import sys, arca_diag.lint; assert not {'torch', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
