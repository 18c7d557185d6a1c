"""Which reference is taken, from what lies on disk."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.adapters import Adapter, read_adapter
from arca_diag.inputs.reference import Reference, choose_reference
from arca_diag.inputs.runs import Checkpoint
from tests.inputs import a_run, lora_tensors, write_adapter

OTHER = lora_tensors(lora_B=torch.full((4, 2), 3.0))
FRESH = lora_tensors(lora_B=torch.zeros(4, 2))


def chosen(
    folder: Path,
    asked: str = "auto",
    *,
    steps: tuple[int, ...] = (10, 20),
    config: dict[str, Any] | None = None,
    training_args: dict[str, Any] | None = None,
    **run: Any,
) -> Reference:
    """What is chosen for a run of two checkpoints, with whatever the test has put beside them."""
    made = tuple(write_adapter(folder / f"checkpoint-{s}", config) for s in steps)
    start = folder / "checkpoint-0"
    first = (Checkpoint(name=start.name, step=0, path=start),) if start.is_dir() else ()
    plain = {"root": folder, "checkpoints": first + made, "framework_version": "1.16.0"}
    described = a_run(**plain | {"training_args": training_args or {}} | run)
    return choose_reference(asked, described, tuple(read_adapter(c) for c in made))


def with_ref(folder: Path, *steps: int, tensors: Any = OTHER, **config: Any) -> None:
    for step in steps:
        write_adapter(folder / f"checkpoint-{step}" / "ref", config, tensors)


def values(adapter: Adapter) -> float:
    (b,) = [v for k, v in adapter.tensors.items() if ".lora_B." in k]
    return float(b[0][0])


class TestAuto:
    def test_plain_lora_is_measured_from_its_base(self, tmp_path):
        found = chosen(tmp_path, training_args={"beta": 0.04})
        assert (found.kind, found.uncertain, found.adapters) == ("adapter-off", None, {})
        assert found.model is None
        assert found.reason == "plain LoRA starts from the base itself"

    def test_without_kl_the_base_is_still_the_reference_and_that_is_said(self, tmp_path):
        found = chosen(tmp_path, training_args={"beta": 0.0})
        assert found.kind == "adapter-off"
        assert "beta = 0" in found.reason

    @pytest.mark.parametrize("beta", ["0", None, [0], False])
    def test_a_beta_of_an_odd_type_says_nothing(self, tmp_path, beta):
        assert "beta" not in chosen(tmp_path, training_args={"beta": beta}).reason

    def test_ref_is_the_reference_of_every_checkpoint(self, tmp_path):
        with_ref(tmp_path, 10, 20)
        found = chosen(tmp_path)
        assert (found.kind, found.uncertain) == ("ref-adapter", None)
        assert {k: values(a) for k, a in found.adapters.items()} == {
            "checkpoint-10": 3,
            "checkpoint-20": 3,
        }
        assert found.reason == "training kept its reference adapter in checkpoint-10/ref"

    def test_a_checkpoint_that_lost_its_copy_has_the_same_reference(self, tmp_path):
        with_ref(tmp_path, 20)
        found = chosen(tmp_path)
        assert found.adapters["checkpoint-10"] is found.adapters["checkpoint-20"]
        assert found.uncertain is None

    @pytest.mark.parametrize("differs", ["tensors", "config"])
    def test_copies_that_differ_are_named_and_each_used(self, tmp_path, differs):
        with_ref(tmp_path, 10)
        if differs == "tensors":
            with_ref(tmp_path, 20, tensors=FRESH)
        else:
            with_ref(tmp_path, 20, lora_alpha=5)
        found = chosen(tmp_path)
        assert "checkpoint-10/ref and checkpoint-20/ref differ" in (found.uncertain or "")
        if differs == "tensors":
            assert [values(a) for a in found.adapters.values()] == [3, 0]
        else:
            assert [a.config["lora_alpha"] for a in found.adapters.values()] == [4, 5]

    def test_a_fresh_ref_is_said_to_equal_the_base(self, tmp_path):
        with_ref(tmp_path, 10, 20, tensors=FRESH)
        found = chosen(tmp_path)
        assert found.kind == "ref-adapter"
        assert "B is zero" in found.reason

    def test_a_ref_that_trains_more_than_b_is_not_said_to_equal_the_base(self, tmp_path):
        more = FRESH | {"base_model.model.model.norm.weight": torch.ones(3)}
        with_ref(tmp_path, 10, 20, tensors=more)
        assert "B is zero" not in chosen(tmp_path).reason

    def test_a_ref_that_cannot_be_read_leaves_a_doubt(self, tmp_path):
        with_ref(tmp_path, 10, 20)
        for step in (10, 20):
            (tmp_path / f"checkpoint-{step}/ref/adapter_model.safetensors").write_bytes(b"half")
        found = chosen(tmp_path)
        assert (found.kind, found.adapters) == ("adapter-off", {})
        assert "checkpoint-10/ref" in (found.uncertain or "")
        with pytest.raises(CheckpointError, match="ref"):
            chosen(tmp_path, "ref-adapter")

    def test_a_readable_copy_stands_for_a_damaged_one(self, tmp_path):
        with_ref(tmp_path, 10, 20)
        (tmp_path / "checkpoint-10/ref/adapter_model.safetensors").write_bytes(b"half")
        found = chosen(tmp_path)
        assert (found.kind, set(found.adapters)) == (
            "ref-adapter",
            {"checkpoint-10", "checkpoint-20"},
        )

    def test_a_link_is_no_ref(self, tmp_path):
        elsewhere = write_adapter(tmp_path / "elsewhere", None, OTHER)
        (tmp_path / "checkpoint-10").mkdir()
        (tmp_path / "checkpoint-10" / "ref").symlink_to(elsewhere.path)
        assert chosen(tmp_path).kind == "adapter-off"

    @pytest.mark.parametrize("init", ["pissa", "olora"])
    def test_what_rewrites_the_base_is_measured_from_the_base_itself(self, tmp_path, init):
        found = chosen(tmp_path, config={"init_lora_weights": init})
        assert (found.kind, found.uncertain, found.adapters) == ("base", None, {})
        assert f"init_lora_weights='{init}'" in found.reason
        assert "loaded without PEFT" in found.reason

    def test_trained_biases_are_not_the_references(self, tmp_path):
        found = chosen(tmp_path, config={"bias": "lora_only"})
        assert (found.kind, found.uncertain) == ("base", None)
        assert "bias='lora_only'" in found.reason

    def test_pissa_with_a_ref_cannot_be_had_right(self, tmp_path):
        with_ref(tmp_path, 10, 20, init_lora_weights="pissa")
        found = chosen(tmp_path, config={"init_lora_weights": "pissa"})
        assert "rewrote the base twice" in (found.uncertain or "")

    def test_a_random_start_that_was_not_saved_leaves_a_doubt(self, tmp_path):
        found = chosen(tmp_path, config={"init_lora_weights": False})
        assert found.kind == "adapter-off"
        assert "init_lora_weights=False" in (found.uncertain or "")

    @pytest.mark.parametrize(
        "init", [True, "gaussian", "orthogonal", "eva", "mica", None, 0, [], {}]
    )
    def test_other_starts_leave_none(self, tmp_path, init):
        assert chosen(tmp_path, config={"init_lora_weights": init}).uncertain is None

    @pytest.mark.parametrize(
        ("version", "old"),
        [("0.26.2", True), ("0.9.0", True), ("0.27.0", False), ("1.0.0", False), (None, False),
         ("x", False), (7, False)],
    )  # fmt: skip
    def test_old_trl_never_had_a_ref(self, tmp_path, version, old):
        arguments = {"beta": 0.1}
        found = chosen(tmp_path, training_args=arguments, framework_version=version)
        assert ("also where a run continued an adapter" in found.reason) is old
        assert (found.kind, found.uncertain) == ("adapter-off", None)

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ({"ref_adapters": ["/home/me/sft"], "beta": 0.04}, "(ref_adapters: 'sft')"),
            ({"ref_adapters": ["sft"], "beta": 0.0}, None),
            ({"ref_adapters": [], "adapters": ["sft"]}, None),
            ({"ref_model": "me/other"}, "(ref_model: 'other')"),
            ({"ref_model_adapters": "a,b"}, "(ref_model_adapters: 'a')"),
            ({"adapter_name_or_path": "one,two", "beta": 0.0}, "merged earlier adapters"),
            ({"adapter_name_or_path": ["one", "two"]}, "merged earlier adapters"),
            ({"adapter_name_or_path": "one"}, None),
            ({"adapter_name_or_path": "one", "create_new_adapter": True}, "merged earlier"),
            ({"create_new_adapter": True}, None),
            ({"ref_adapters": 3, "ref_model": {"a": 1}, "adapter_name_or_path": [1, 2]}, None),
        ],
        ids=str,
    )
    def test_a_start_or_reference_that_is_not_saved_leaves_a_doubt(self, tmp_path, arguments, says):
        found = chosen(tmp_path, training_args=arguments, framework="ms-swift")
        assert found.kind == "adapter-off"
        assert (says is None) is (found.uncertain is None)
        assert says is None or says in (found.uncertain or "")
        assert "/home/me" not in (found.uncertain or "")

    def test_openrlhf_does_not_write_down_what_it_held_the_policy_to(self, tmp_path):
        found = chosen(tmp_path, framework="openrlhf")
        assert found.kind == "adapter-off"
        assert "OpenRLHF holds the policy to a model of its own" in (found.uncertain or "")

    def test_ms_swift_takes_the_base_where_it_continued_an_adapter(self, tmp_path):
        found = chosen(tmp_path, training_args={"beta": 0.04}, framework="ms-swift")
        assert (found.kind, found.uncertain) == ("adapter-off", None)
        assert found.reason.startswith("ms-swift takes the base with the adapter off")

    def test_verl_takes_the_base_even_then(self, tmp_path):
        arguments = {"adapters": ["sft"], "lora_adapter_path": "sft", "beta": 0.0}
        found = chosen(tmp_path, training_args=arguments, framework="verl")
        assert (found.kind, found.uncertain) == ("adapter-off", None)
        assert found.reason.startswith("verl takes the base")


class TestAsked:
    def test_the_base_or_the_adapter_off(self, tmp_path):
        with_ref(tmp_path, 10, 20)
        assert chosen(tmp_path, "base").kind == "base"
        assert chosen(tmp_path, "adapter-off").kind == "adapter-off"
        assert chosen(tmp_path, "base").adapters == {}

    @pytest.mark.parametrize("config", [{"init_lora_weights": "pissa"}, {"bias": "all"}], ids=str)
    def test_the_adapter_off_is_refused_where_it_does_not_give_the_base(self, tmp_path, config):
        ((key, value),) = config.items()
        with pytest.raises(ArcaError, match=f"checkpoint-10 has {key}='{value}'") as caught:
            chosen(tmp_path, "adapter-off", config=config)
        assert "--reference base" in caught.value.hint
        assert chosen(tmp_path, "base", config=config).kind == "base"

    def test_a_ref_that_is_not_there(self, tmp_path):
        with pytest.raises(ArcaError, match=r"no checkpoint of .* has a ref/ folder") as caught:
            chosen(tmp_path, "ref-adapter")
        assert "0.27.0" in caught.value.hint

    def test_a_ref_that_is_there(self, tmp_path):
        with_ref(tmp_path, 10, 20)
        assert chosen(tmp_path, "ref-adapter").kind == "ref-adapter"

    def test_the_initial_adapter_is_checkpoint_0(self, tmp_path):
        write_adapter(tmp_path / "checkpoint-0", None, OTHER)
        found = chosen(tmp_path, "init-adapter")
        assert (found.kind, found.model) == ("init-adapter", None)
        assert [values(a) for a in found.adapters.values()] == [3, 3]
        assert "checkpoint-0" in found.reason

    def test_pissas_initial_adapter_gives_the_base_back(self, tmp_path):
        write_adapter(tmp_path / "pissa_init", {"init_lora_weights": True}, OTHER)
        found = chosen(tmp_path, "init-adapter", config={"init_lora_weights": "pissa"})
        assert (found.kind, found.adapters) == ("init-adapter", {})
        assert "started as the base itself" in found.reason

    def test_no_initial_adapter(self, tmp_path):
        with pytest.raises(ArcaError, match="neither checkpoint-0 nor pissa_init/") as caught:
            chosen(tmp_path, "init-adapter")
        assert "--reference FOLDER" in caught.value.hint

    def test_a_folder_with_an_adapter(self, tmp_path):
        given = write_adapter(tmp_path / "sft", None, OTHER)
        (given.path / "config.json").write_text("{}")  # some trainers save both
        found = chosen(tmp_path, str(given.path))
        assert (found.kind, found.path, found.model) == ("path", given.path, None)
        assert [values(a) for a in found.adapters.values()] == [3, 3]
        assert found.uncertain is None
        assert str(tmp_path) not in found.reason

    def test_a_folder_with_an_adapter_of_another_base(self, tmp_path):
        write_adapter(tmp_path / "sft", {"base_model_name_or_path": "else/where"}, OTHER)
        found = chosen(tmp_path, str(tmp_path / "sft"))
        assert "names another base ('where') than the run's ('base')" in (found.uncertain or "")

    def test_a_folder_with_a_model(self, tmp_path):
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text(json.dumps({"vocab_size": 3}))
        found = chosen(tmp_path, str(tmp_path / "model"))
        assert (found.kind, found.model, found.adapters) == ("path", tmp_path / "model", {})
        assert str(tmp_path) not in found.reason

    @pytest.mark.parametrize("asked", ["gone", "", "Base", "a" * 5000, "nul\0"])
    def test_what_is_neither_a_word_nor_a_folder(self, tmp_path, asked, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ArcaError, match="neither a word that is known nor a folder") as caught:
            chosen(tmp_path / "run", asked)
        assert len(str(caught.value)) < 400
        assert "ref-adapter" in caught.value.hint


class TestInitial:
    @pytest.mark.parametrize("inside", [True, False])
    def test_a_saved_start_is_found_in_or_beside_the_checkpoint(self, tmp_path, inside):
        places = ["checkpoint-10", "checkpoint-20"] if inside else ["."]
        for place in places:
            write_adapter(tmp_path / place / "pissa_init", None, OTHER)
        found = chosen(tmp_path, config={"init_lora_weights": "pissa"})
        assert (found.kind, found.adapters) == ("base", {})
        assert {k: values(a) for k, a in found.initial.items()} == {
            "checkpoint-10": 3,
            "checkpoint-20": 3,
        }

    @pytest.mark.parametrize("init", ["pissa", "pissa_niter_4"])
    def test_one_that_cannot_be_read_is_no_silent_matter(self, tmp_path, init):
        write_adapter(tmp_path / "pissa_init", None, OTHER)
        (tmp_path / "pissa_init" / "adapter_model.safetensors").write_bytes(b"half")
        found = chosen(tmp_path, config={"init_lora_weights": init})
        assert (found.kind, found.initial) == ("base", {})
        assert "was saved and cannot be read: pissa_init/" in (found.uncertain or "")

    def test_other_kinds_need_none(self, tmp_path):
        write_adapter(tmp_path / "pissa_init", None, OTHER)
        assert chosen(tmp_path).initial == {}
        assert chosen(tmp_path, config={"init_lora_weights": "olora"}).initial == {}
        assert chosen(tmp_path, config={"init_lora_weights": "pissa"}).initial

    def test_a_link_is_no_start(self, tmp_path):
        elsewhere = write_adapter(tmp_path / "elsewhere", None, OTHER)
        (tmp_path / "pissa_init").symlink_to(elsewhere.path)
        assert chosen(tmp_path, config={"init_lora_weights": "pissa"}).initial == {}
