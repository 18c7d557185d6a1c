import hashlib
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.adapters import check_same_kind, open_adapter, read_adapter
from arca_diag.inputs.runs import Checkpoint
from tests.inputs import SAMPLE, lora_tensors, write_adapter

NAN, INF = float("nan"), float("inf")
NANS = torch.full((2, 3), NAN)
A, B = "base_model.model.layer.lora_A.weight", "base_model.model.layer.lora_B.weight"


def refused(folder, says: str) -> CheckpointError:
    """What `read_adapter` says of a folder; every message names the checkpoint."""
    with pytest.raises(CheckpointError, match=says) as caught:
        read_adapter(Checkpoint(name=folder.name, step=20, path=folder))
    assert folder.name in str(caught.value)
    return caught.value


class TestWhatIsRead:
    def test_the_sample(self):
        folder = SAMPLE / "checkpoint-20"
        weights = (folder / "adapter_model.safetensors").read_bytes()
        found = read_adapter(Checkpoint(name=folder.name, step=20, path=folder))
        assert found.base_name == "tiny-addition/base"
        assert len(found.tensors) == 2 * 7 * 3  # A and B of seven projections in three layers
        assert found.sha256 == hashlib.sha256(weights).hexdigest()
        assert found.config["r"] == 4

    def test_tensors_stay_in_memory_when_the_folder_vanishes(self, tmp_path):
        found = read_adapter(write_adapter(tmp_path / "checkpoint-20"))
        for path in (tmp_path / "checkpoint-20").iterdir():
            path.unlink()
        assert all((t == 1).all() for t in found.tensors.values())

    @pytest.mark.parametrize("name", [None, 5, ["x"], ""], ids=repr)
    def test_a_base_that_is_not_named_by_a_text_is_not_named(self, tmp_path, name):
        folder = write_adapter(tmp_path / "checkpoint-20", {"base_model_name_or_path": name})
        assert read_adapter(folder).base_name == ""

    @pytest.mark.parametrize("init", [True, False, "gaussian", "eva", "orthogonal", None])
    def test_initialisations_that_leave_the_base_alone_pass(self, tmp_path, init):
        read_adapter(write_adapter(tmp_path / "checkpoint-20", {"init_lora_weights": init}))


class TestOpened:
    """`open_adapter`: the header now, values when they are looked up."""

    def test_nothing_but_the_header_is_read(self, tmp_path):
        place = write_adapter(tmp_path / "checkpoint-20", tensors=lora_tensors(lora_A=NANS))
        found = open_adapter(place)
        assert found.shapes == {A: (2, 3), B: (4, 2)}
        assert np.isnan(found.tensors[A]).all()
        assert found.size_bytes == (place.path / "adapter_model.safetensors").stat().st_size

    def test_both_ways_give_the_same_values_and_hash(self):
        place = Checkpoint(name="checkpoint-20", step=20, path=SAMPLE / "checkpoint-20")
        opened, read = open_adapter(place), read_adapter(place)
        truth = load_file(place.path / "adapter_model.safetensors")
        assert opened.sha256 == read.sha256
        assert opened.tensors.keys() == read.tensors.keys() == truth.keys()
        for name, values in truth.items():
            assert np.array_equal(opened.tensors[name], values.numpy())
            assert np.array_equal(read.tensors[name], values.numpy())

    @pytest.mark.parametrize(
        "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
    )
    def test_every_float_is_read_exactly(self, tmp_path, dtype):
        values = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
        values[0, 0] = torch.finfo(dtype).smallest_normal
        place = write_adapter(tmp_path / "checkpoint-20", tensors=lora_tensors(lora_A=values))
        assert np.array_equal(open_adapter(place).tensors[A], values.double().numpy())

    @pytest.mark.parametrize(
        ("written", "expected"),
        [
            ("base_model.model.layer.lora_A.weight", False),
            ("layer.lora_A.weight", True),
            ("base_model.model.layer.lora_A.default.weight", True),
            ("base_model.model._orig_mod.layer.lora_A.weight", True),
        ],
    )
    def test_names_that_peft_would_not_place_are_mended_and_told(self, tmp_path, written, expected):
        tensors = {written: torch.ones(2, 3), B: torch.ones(4, 2)}
        found = open_adapter(write_adapter(tmp_path / "checkpoint-20", tensors=tensors))
        assert set(found.tensors) == set(found.shapes) == {A, B}
        assert found.odd_keys == ((written,) if expected else ())
        assert found.tensors[A].shape == (2, 3)

    def test_two_tensors_of_one_place_are_refused(self, tmp_path):
        tensors = lora_tensors() | {"layer.lora_A.weight": torch.ones(2, 3)}
        refused(write_adapter(tmp_path / "checkpoint-20", tensors=tensors).path, "of one place")

    def test_what_the_configuration_says(self, tmp_path):
        config = {
            "r": 3,
            "lora_alpha": 7.5,
            "init_lora_weights": "PiSSA",
            "target_modules": ["v", "q"],
            "use_rslora": True,
        }
        found = open_adapter(write_adapter(tmp_path / "checkpoint-20", config))
        assert (found.rank, found.alpha, found.init) == (3, 7.5, "pissa")
        assert (found.targets, found.use_dora, found.use_rslora) == (("q", "v"), False, True)
        plain = open_adapter(write_adapter(tmp_path / "x", {"target_modules": ".*_proj"}))
        assert (plain.rank, plain.alpha, plain.init) == (2, 4.0, "true")
        assert plain.targets == (".*_proj",)

    @pytest.mark.parametrize(
        "config",
        [
            {"r": "four"},
            {"r": True},
            {"r": -1},
            {"r": 2.0},
            {"r": 10**30},
            {"lora_alpha": "8"},
            {"lora_alpha": None},
            {"lora_alpha": NAN},
            {"lora_alpha": 10**400},
            {"target_modules": {"q_proj": 1}},
            {"target_modules": ["q_proj", 3]},
            {"bias": ["none"]},
        ],
        ids=lambda config: str(config)[:30],
    )
    def test_an_option_of_another_type(self, tmp_path, config):
        refused(write_adapter(tmp_path / "checkpoint-20", config).path, next(iter(config)))


class TestLinks:
    @pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
    def test_a_link_out_of_the_checkpoint_is_refused(self, tmp_path, name):
        folder = write_adapter(tmp_path / "checkpoint-20").path
        (folder / name).rename(tmp_path / "elsewhere")
        (folder / name).symlink_to(tmp_path / "elsewhere")
        refused(folder, rf"{name} leads out of checkpoint-20")

    def test_the_hubs_cache_is_made_of_links_to_its_own_blobs(self, tmp_path):
        folder = write_adapter(tmp_path / "models--a--b" / "snapshots" / "0f" / "step-1").path
        blobs = tmp_path / "models--a--b" / "blobs"
        blobs.mkdir()
        for path in list(folder.iterdir()):
            path.rename(blobs / path.name)
            path.symlink_to(blobs / path.name)
        read_adapter(Checkpoint(name="step-1", step=1, path=folder))


class TestHalfWritten:
    def test_no_configuration(self, tmp_path):
        folder = write_adapter(tmp_path / "checkpoint-20").path
        (folder / "adapter_config.json").unlink()
        error = refused(folder, r"adapter_config\.json is missing")
        assert "half-written" in error.hint

    def test_no_weights(self, tmp_path):
        folder = write_adapter(tmp_path / "checkpoint-20").path
        (folder / "adapter_model.safetensors").unlink()
        error = refused(folder, r"adapter_model\.safetensors is missing")
        assert "half-written" in error.hint

    def test_no_folder_any_more(self, tmp_path):
        refused(tmp_path / "checkpoint-20", "is missing")

    @pytest.mark.parametrize("kept", [0, 4, 60, -1])
    def test_truncated_weights(self, tmp_path, kept):
        path = write_adapter(tmp_path / "checkpoint-20").path / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
        error = refused(path.parent, r"adapter_model\.safetensors cannot be read: ")
        assert "truncated" in error.hint

    def test_corrupt_weights(self, tmp_path):
        path = write_adapter(tmp_path / "checkpoint-20").path / "adapter_model.safetensors"
        path.write_bytes(b"\xff" * path.stat().st_size)
        refused(path.parent, r"adapter_model\.safetensors cannot be read: ")

    @pytest.mark.parametrize("text", [b"", b'{"r": 4', b"[" * 200_000, b"\xff\xfe\x00"], ids=len)
    def test_a_configuration_that_is_not_json(self, tmp_path, text):
        folder = write_adapter(tmp_path / "checkpoint-20").path
        (folder / "adapter_config.json").write_bytes(text)
        error = refused(folder, r"adapter_config\.json: ")
        assert "truncated or damaged" in error.hint

    @pytest.mark.parametrize("content", [[], "text", 5, None], ids=repr)
    def test_a_configuration_that_is_no_object(self, tmp_path, content):
        folder = write_adapter(tmp_path / "checkpoint-20").path
        (folder / "adapter_config.json").write_text(json.dumps(content))
        refused(folder, r"adapter_config\.json does not hold an object")

    def test_a_header_that_claims_ten_gigabytes(self, tmp_path):
        path = write_adapter(tmp_path / "checkpoint-20").path / "adapter_model.safetensors"
        path.write_bytes((10 * 2**30).to_bytes(8, "little") + path.read_bytes()[8:])
        refused(path.parent, r"its header claims 10,737,418,240 bytes")


class TestNotReplayable:
    def test_pickled_weights_are_refused_with_the_reason(self, tmp_path):
        folder = write_adapter(tmp_path / "checkpoint-20").path
        weights = folder / "adapter_model.safetensors"
        weights.rename(weights.with_suffix(".bin"))
        error = refused(folder, r"adapter_model\.bin is a pickle, which can run code")
        assert "safe_serialization=True" in error.hint

    def test_pickled_weights_beside_safe_ones_are_left_alone(self, tmp_path):
        folder = write_adapter(tmp_path / "checkpoint-20")
        (folder.path / "adapter_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        assert read_adapter(folder).tensors

    @pytest.mark.parametrize("kind", ["IA3", "lora", None, 5], ids=repr)
    def test_an_adapter_that_is_not_lora(self, tmp_path, kind):
        folder = write_adapter(tmp_path / "checkpoint-20", {"peft_type": kind}).path
        refused(folder, rf"is not LoRA: .* peft_type {kind!r}")

    @pytest.mark.parametrize("init", ["corda", "CorDA", "lora_ga", "loftq"])
    def test_an_initialisation_that_rewrites_the_base(self, tmp_path, init):
        folder = write_adapter(tmp_path / "checkpoint-20", {"init_lora_weights": init}).path
        error = refused(folder, rf"init_lora_weights='{init}' rewrites the base")
        assert "convert" in error.hint

    def test_no_lora_tensor(self, tmp_path):
        tensors = {"model.weight": torch.ones(2, 2)}
        folder = write_adapter(tmp_path / "checkpoint-20", tensors=tensors).path
        refused(folder, "holds no LoRA tensor")

    @pytest.mark.parametrize("bad", [NAN, INF, -INF])
    @pytest.mark.parametrize("side", ["lora_A", "lora_B"])
    def test_a_tensor_with_nan_or_infinity_is_named(self, tmp_path, side, bad):
        spoilt = torch.ones(2, 3) if side == "lora_A" else torch.ones(4, 2)
        spoilt[1, 1] = bad
        tensors = lora_tensors(**{side: spoilt})
        folder = write_adapter(tmp_path / "checkpoint-20", tensors=tensors).path
        error = refused(
            folder,
            rf"tensor base_model\.model\.layer\.{side}\.weight holds NaN or infinity "
            rf"in 1 of {spoilt.numel()} places",
        )
        assert "earlier" in error.hint

    def test_nan_is_seen_in_half_precision_and_beside_the_matrices(self, tmp_path):
        tensors = lora_tensors() | {"layer.lora_magnitude": torch.tensor([NAN]).bfloat16()}
        folder = write_adapter(tmp_path / "checkpoint-20", tensors=tensors).path
        refused(folder, r"lora_magnitude holds NaN")

    @pytest.mark.parametrize("shape", [(6,), (0, 3), ()], ids=str)
    def test_a_shard_of_a_matrix(self, tmp_path, shape):
        tensors = lora_tensors(lora_A=torch.ones(shape))
        folder = write_adapter(tmp_path / "checkpoint-20", tensors=tensors).path
        says = str(list(shape)).replace("[", r"\[").replace("]", r"\]")
        error = refused(folder, rf"lora_A\.weight has shape {says}: a shard")
        assert "stage3_gather_16bit_weights_on_model_save" in error.hint

    def test_eight_bit_floats_are_refused_and_named(self, tmp_path):
        tensors = lora_tensors(lora_A=torch.ones(2, 3).to(torch.float8_e4m3fn))
        folder = write_adapter(tmp_path / "checkpoint-20", tensors=tensors)
        refused(folder.path, r"of type F8_E4M3, which is not read")


class TestAdaptersOfOneRun:
    def test_those_that_name_one_base_belong_together(self, tmp_path):
        pair = tuple(read_adapter(write_adapter(tmp_path / f"checkpoint-{n}")) for n in (1, 2))
        check_same_kind(pair)

    def test_those_that_name_two_do_not_and_both_are_named(self, tmp_path):
        one = read_adapter(write_adapter(tmp_path / "checkpoint-1"))
        other = read_adapter(
            write_adapter(tmp_path / "checkpoint-2", {"base_model_name_or_path": "other/base"})
        )
        with pytest.raises(
            ArcaError, match=r"checkpoint-1 'some/base', checkpoint-2 'other/base'"
        ) as caught:
            check_same_kind((one, other))
        assert "--checkpoints" in caught.value.hint
