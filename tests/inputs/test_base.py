import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants as hub
from safetensors.torch import save_file

from arca_diag.errors import ArcaError
from arca_diag.inputs import base as base_module
from arca_diag.inputs.base import Base, find_base
from arca_diag.inputs.models import end_tokens, load_config, load_model, load_tokenizer
from tests.inputs import EOS, SAMPLE, edit_json


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty Hugging Face cache and no network, whatever this machine has."""
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory beside a folder with a run in it."""
    (tmp_path / "work").mkdir()
    (tmp_path / "runs" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def folder_base(folder: Path, **config: Any) -> Path:
    """A folder that looks like a model as far as finding goes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"w": torch.zeros(1)}, folder / "model.safetensors")
    return folder


def found(place: Path, named: str = "a/base", asked: str | None = None) -> Base:
    return find_base(asked, named, place / "runs" / "run", allow_download=False)


def sample_base(**given: Any) -> Base:
    plain: dict[str, Any] = {"folder": SAMPLE / "base", "gguf_file": None, "revision": None}
    return Base(name="b", **(plain | given))


class TestWhereItIsLookedFor:
    ORDER = ("work", "runs/run", "runs")

    @pytest.mark.parametrize("first", range(3), ids=ORDER)
    def test_in_the_working_directory_then_the_run_then_beside_it(self, place, first):
        for root in self.ORDER[first:]:
            folder_base(place / root / "a" / "base")
        expected = place / self.ORDER[first] / "a" / "base"
        assert found(place).folder.resolve() == expected

    def test_an_absolute_folder_is_taken_as_it_is(self, place):
        folder = folder_base(place / "elsewhere")
        assert found(place, named=str(folder)).folder == folder

    def test_what_was_asked_for_counts_before_what_the_adapter_names(self, place):
        for name in ("named", "asked"):
            folder_base(place / "work" / name)
        base = found(place, named="named", asked="asked")
        assert base.name == "asked"
        assert base.folder.name == "asked"

    def test_a_folder_without_a_configuration_is_passed_over(self, place):
        (place / "work" / "a" / "base").mkdir(parents=True)
        folder_base(place / "runs" / "a" / "base")
        assert found(place).folder.resolve() == place / "runs" / "a" / "base"

    def test_a_gguf_file_is_a_base(self, place):
        (place / "runs" / "model.gguf").write_bytes(b"GGUF")
        base = found(place, named="model.gguf")
        assert base.gguf_file == "model.gguf"
        assert base.folder.resolve() == place / "runs"
        assert base.files() == [base.folder / "model.gguf"]

    def test_another_file_is_not(self, place):
        (place / "runs" / "model.bin").write_bytes(b"GGUF")
        with pytest.raises(ArcaError, match=r"base model 'model\.bin'"):
            found(place, named="model.bin")

    def test_a_hub_id_is_found_in_the_local_cache_with_its_revision(self, place):
        cached = place / "hub" / "models--a--base"
        folder_base(cached / "snapshots" / "abc123")
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("abc123")
        base = found(place)
        assert base.revision == "abc123"
        assert base.folder == cached / "snapshots" / "abc123"


class TestWhenItIsNotThere:
    def test_the_message_says_how_to_give_it(self, place):
        with pytest.raises(
            ArcaError, match=r"'a/base' \(named by adapter_config\.json\) .* not in the local"
        ) as caught:
            found(place)
        assert "--base" in caught.value.hint
        assert "--allow-download" in caught.value.hint

    def test_one_that_was_asked_for_is_named_by_the_flag(self, place):
        with pytest.raises(ArcaError, match=r"'x/y' \(named by --base\)"):
            found(place, asked="x/y")

    @pytest.mark.parametrize(
        "name", ["/home/them/models/base", "a/b/c/d", "sp ace", "x" * 300, "x" * 5000, "n\0l"]
    )
    def test_a_name_that_can_be_no_hub_id_is_said_to_be_none(self, place, name):
        with pytest.raises(ArcaError, match="nor a hub id") as caught:
            found(place, named=name)
        assert "--base" in caught.value.hint

    def test_no_name_at_all(self, place):
        with pytest.raises(ArcaError, match="does not name the base model") as caught:
            found(place, named="")
        assert "--base" in caught.value.hint

    def test_a_download_that_fails_is_no_bug(self, place):
        with pytest.raises(ArcaError, match="base model 'a/base'") as caught:
            find_base(None, "a/base", place / "runs" / "run", allow_download=True)
        assert "--base" in caught.value.hint


class TestWhatIsRefused:
    def test_pickled_weights_alone(self, place):
        folder = folder_base(place / "work" / "a" / "base")
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
        with pytest.raises(ArcaError, match="has no safetensors weights") as caught:
            found(place)
        assert "never opened" in caught.value.hint

    @pytest.mark.parametrize("text", ["", "{", "5", "[1]", '"text"', "null"], ids=repr)
    def test_a_damaged_configuration(self, place, text):
        folder = folder_base(place / "work" / "a" / "base")
        (folder / "config.json").write_text(text)
        with pytest.raises(ArcaError, match=r"config\.json is not valid"):
            found(place)

    @pytest.mark.parametrize(
        ("version", "config", "passes"),
        [
            ("4.57.1", {"rope_parameters": {"rope_theta": 1000.0}}, False),
            ("4.57.1", {"rope_parameters": {"rope_theta": 1000.0}, "rope_theta": 1000.0}, True),
            ("4.57.1", {"rope_theta": 1000.0}, True),
            ("5.0.0", {"rope_parameters": {"rope_theta": 1000.0}}, True),
            ("11.2.0", {"rope_parameters": {"rope_theta": 1000.0}}, True),
        ],
    )
    def test_a_newer_transformers_rope_that_the_installed_would_misread(
        self, place, monkeypatch, version, config, passes
    ):
        folder_base(place / "work" / "a" / "base", **config)
        monkeypatch.setattr(base_module.importlib.metadata, "version", lambda _: version)
        if passes:
            assert found(place).name == "a/base"
            return
        with pytest.raises(
            ArcaError, match=r"saved by transformers 5 .* installed transformers 4\.57\.1"
        ):
            found(place)

    @pytest.mark.parametrize(
        "change",
        [{"model_type": "nonesuch"}, {"vocab_size": "many"}, {"model_type": None}],
        ids=str,
    )
    def test_a_configuration_that_transformers_does_not_know(self, tmp_path, change):
        shutil.copytree(SAMPLE / "base", tmp_path / "b")
        edit_json(tmp_path / "b" / "config.json", **change)
        with pytest.raises(ArcaError, match="base model 'b' cannot be loaded"):
            load_config(sample_base(folder=tmp_path / "b"))

    @pytest.mark.parametrize("kept", [0, 100, 1_000_000])
    def test_truncated_weights(self, tmp_path, kept):
        shutil.copytree(SAMPLE / "base", tmp_path / "b")
        weights = tmp_path / "b" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:kept])
        with pytest.raises(ArcaError, match="base model 'b' cannot be loaded"):
            load_model(sample_base(folder=tmp_path / "b"), torch.float32, "cpu")

    def test_a_family_without_the_usual_attention_is_loaded_with_plain_one(self, tmp_path):
        small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
        config = transformers.Gemma2Config(vocab_size=60, **small, **heads)
        transformers.Gemma2ForCausalLM(config).save_pretrained(tmp_path)
        model = load_model(sample_base(folder=tmp_path), torch.float32, "cpu")
        assert model.config.num_hidden_layers == 1

    def test_a_file_that_is_no_gguf(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
        with pytest.raises(ArcaError, match="base model 'b' cannot be loaded"):
            load_config(sample_base(folder=tmp_path, gguf_file="m.gguf"))

    def test_a_link_in_the_run_out_of_it(self, place):
        folder_base(place / "elsewhere")
        (place / "runs" / "run" / "base").symlink_to(place / "elsewhere")
        with pytest.raises(ArcaError, match="leads out of run"):
            found(place, named="base")
        assert found(place, named=str(place / "elsewhere")).folder == place / "elsewhere"

    @pytest.mark.parametrize(
        ("config", "passes"),
        [
            ({"num_hidden_layers": 10_000}, True),
            ({"num_hidden_layers": 10_001}, False),
            ({"text_config": {"n_layer": 10**9}}, False),
            ({"num_local_experts": 1e300}, False),
            ({"vocab_size": 262_144, "max_position_embeddings": 10**7}, True),
            ({"use_kernels": True}, False),
            ({"use_kernels": False, "attn_implementation": "sdpa"}, True),
            ({"text_config": {"attn_implementation": "some/kernel"}}, False),
        ],
        ids=str,
    )
    def test_a_configuration_that_asks_for_what_no_model_has(self, place, config, passes):
        folder_base(place / "work" / "a" / "base", **config)
        if passes:
            assert found(place).name == "a/base"
            return
        with pytest.raises(ArcaError, match=r"config\.json (says|asks)") as caught:
            found(place)
        assert caught.value.hint

    def test_a_folder_with_an_adapter_in_it(self, place):
        folder = folder_base(place / "work" / "a" / "base")
        (folder / "adapter_config.json").write_text("{}")
        (folder / "model.gguf").touch()
        for name in ("a/base", "a/base/model.gguf"):
            with pytest.raises(ArcaError, match="has an adapter in its folder"):
                found(place, named=name)


class TestTheRevision:
    def cache(self, place: Path) -> None:
        cached = place / "hub" / "models--a--base"
        for commit in ("1" * 40, "2" * 40):
            folder_base(cached / "snapshots" / commit)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text("1" * 40)
        (cached / "refs" / "v2").write_text("2" * 40)

    def revision(self, place: Path, wanted: Any, asked: str | None = None) -> str | None:
        run = place / "runs" / "run"
        return find_base(asked, "a/base", run, allow_download=False, revision=wanted).revision

    @pytest.mark.parametrize(
        ("wanted", "commit"),
        [(None, "1"), ("", "1"), ("main", "1"), ("v2", "2"), ("2" * 40, "2")],
        ids=str,
    )
    def test_that_the_adapter_names_is_the_one(self, place, wanted, commit):
        self.cache(place)
        assert self.revision(place, wanted) == commit * 40

    def test_of_another_base_is_of_no_account(self, place):
        self.cache(place)
        assert self.revision(place, "v2", asked="a/base") == "1" * 40

    def test_that_the_cache_lacks_is_named(self, place):
        self.cache(place)
        with pytest.raises(ArcaError, match="'a/base' at revision 'v3'") as caught:
            self.revision(place, "v3")
        assert "--allow-download" in caught.value.hint

    @pytest.mark.parametrize("odd", ["../main", "a/../../b", "/etc", 7, ["v2"], "x" * 300, "v\0"])
    def test_that_can_be_none_is_refused(self, place, odd):
        self.cache(place)
        with pytest.raises(ArcaError, match="which is no branch, tag or commit"):
            self.revision(place, odd)


class TestItsHash:
    def test_it_moves_with_names_and_contents_of_weights_and_configuration(self, tmp_path):
        plain = sample_base(folder=folder_base(tmp_path / "b")).sha256()
        (tmp_path / "b" / "README.md").touch()
        assert sample_base(folder=tmp_path / "b").sha256() == plain
        seen = {plain}
        for name, content in (
            ("config.json", b"{} "),
            ("model.safetensors", b"others"),
            ("more.safetensors", b""),
        ):
            (tmp_path / "b" / name).write_bytes(content)
            seen.add(sample_base(folder=tmp_path / "b").sha256())
        assert len(seen) == 4
        (tmp_path / "b" / "more.safetensors").rename(tmp_path / "b" / "most.safetensors")
        assert sample_base(folder=tmp_path / "b").sha256() not in seen


class TestTheTokenizer:
    def test_the_first_folder_that_holds_one_gives_it(self, tmp_path):
        shutil.copytree(SAMPLE / "base", tmp_path / "run")
        edit_json(tmp_path / "run" / "tokenizer_config.json", eos_token="<unk>")
        tokenizer = load_tokenizer([tmp_path, tmp_path / "run", SAMPLE], sample_base(), tmp_path)
        assert tokenizer.eos_token == "<unk>"

    def test_what_its_configuration_names_elsewhere_is_not_opened(self, tmp_path):
        shutil.copytree(SAMPLE / "base", tmp_path / "run")
        (tmp_path / "secret.json").write_text('{"secret": 0}')
        edit_json(
            tmp_path / "run" / "tokenizer_config.json",
            vocab_file=str(tmp_path / "secret.json"),
            tokenizer_file=str(tmp_path / "secret.json"),
            fast_tokenizer_files=["../secret.json"],
        )
        assert (
            "secret" not in load_tokenizer([tmp_path / "run"], sample_base(), tmp_path).get_vocab()
        )

    def test_one_in_the_hubs_cache_is_all_links(self, tmp_path):
        blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
        shutil.copytree(SAMPLE / "base", blobs)
        snapshot.mkdir(parents=True)
        for path in blobs.iterdir():
            (snapshot / path.name).symlink_to(path)
        assert load_tokenizer([snapshot], sample_base(), snapshot).eos_token_id == EOS

    def test_a_link_out_of_the_run_is_not_followed(self, tmp_path):
        shutil.copytree(SAMPLE / "base", tmp_path / "run")
        (tmp_path / "run" / "tokenizer.json").rename(tmp_path / "mine.json")
        (tmp_path / "run" / "tokenizer.json").symlink_to(tmp_path / "mine.json")
        with pytest.raises(ArcaError, match=r"run/tokenizer\.json leads out of run"):
            load_tokenizer([tmp_path / "run"], sample_base(), tmp_path / "run")

    def test_else_the_bases(self, tmp_path):
        assert load_tokenizer([tmp_path], sample_base(), tmp_path).eos_token_id == EOS

    def test_none_anywhere_is_none(self, tmp_path):
        assert load_tokenizer([tmp_path], sample_base(folder=tmp_path), tmp_path) is None

    @pytest.mark.parametrize("cls", ["TokenizersBackend", "NoSuchTokenizerFast", "LlamaTokenizer"])
    def test_the_class_that_another_version_named_does_not_matter(self, tmp_path, cls):
        shutil.copytree(SAMPLE / "base", tmp_path / "run")
        edit_json(tmp_path / "run" / "tokenizer_config.json", tokenizer_class=cls)
        tokenizer = load_tokenizer([tmp_path / "run"], sample_base(), tmp_path)
        assert tokenizer("9+1", add_special_tokens=False)["input_ids"] == [13, 14, 5]

    @pytest.mark.parametrize(
        "text", [b"", b"{}", b'{"version": "1.0", "truncation"', b"\xff"], ids=repr
    )
    def test_a_damaged_one_is_no_bug(self, tmp_path, text):
        (tmp_path / "tokenizer.json").write_bytes(text)
        with pytest.raises(ArcaError, match=r"tokenizer"):
            load_tokenizer([tmp_path], sample_base(), tmp_path)


class TestEndTokens:
    def base(self, folder: Path, text: str) -> Base:
        (folder / "generation_config.json").write_text(text)
        return sample_base(folder=folder)

    def test_the_samples(self, tmp_path):
        assert end_tokens(load_tokenizer([SAMPLE], sample_base(), tmp_path), sample_base()) == {EOS}

    @pytest.mark.parametrize(
        ("listed", "ids"),
        [("7", {7}), ("[7, 9]", {7, 9}), ("null", set()), ("0", {0}), ("[0, 5]", {0, 5})],
    )
    def test_those_of_the_generation_configuration(self, tmp_path, listed, ids):
        assert end_tokens(None, self.base(tmp_path, f'{{"eos_token_id": {listed}}}')) == ids

    def test_both_sources_count(self, tmp_path):
        base = self.base(tmp_path, '{"eos_token_id": [7]}')
        assert end_tokens(load_tokenizer([SAMPLE], sample_base(), tmp_path), base) == {EOS, 7}

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "5", "{}", '{"eos_token_id": "a"}', '{"eos_token_id": [{}]}']
    )
    def test_a_damaged_generation_configuration_names_none(self, tmp_path, text):
        assert end_tokens(None, self.base(tmp_path, text)) == frozenset()

    def test_no_source_no_end(self, tmp_path):
        assert end_tokens(None, sample_base(folder=tmp_path)) == frozenset()
