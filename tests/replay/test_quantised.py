"""Quantised bases: scores are those of a plain forward of the same quantised model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from arca_diag.config import ScanConfig
from arca_diag.errors import ArcaError
from arca_diag.findings import base_findings
from arca_diag.inputs import quantised
from arca_diag.inputs.adapters import read_adapter
from arca_diag.inputs.base import Base, find_base
from arca_diag.inputs.models import load_model
from arca_diag.inputs.quantised import Quantisation
from arca_diag.inputs.runs import Checkpoint
from arca_diag.pipeline import diagnose
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.noise import higher_precision
from arca_diag.results import Report
from tests.replay.test_forward import (
    COLUMNS,
    assert_same,
    plain_pass,
    plain_scores,
    sampled,
    scored,
)

pytestmark = pytest.mark.quantized

FOUR = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
EIGHT = {"load_in_8bit": True}


def a_base(folder: Path, **options: Any) -> Base:
    return Base(name="base", folder=folder, gguf_file=None, revision=None, **options)


def plain_quantised(folder: Path, **options: Any) -> Any:
    """As anybody would quantise it, in float32."""
    how = BitsAndBytesConfig(**options)
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=how, device_map="cpu"
    ).eval()


def plain_of(base: Any, adapted: Any, rollouts: Any) -> dict[str, dict[str, np.ndarray]]:
    return {
        r.id: plain_scores(plain_pass(base, r), plain_pass(adapted, r), r, 1.0) for r in rollouts
    }


def replayed(base: Base, checkpoint: Path, rollouts: Any, **options: Any) -> dict[str, Any]:
    model = AdaptedModel(load_model(base, torch.float32, "cpu"))
    model.add(read_adapter(Checkpoint(name=checkpoint.name, step=None, path=checkpoint)))
    found = scored(model, rollouts, [checkpoint.name], **options)
    return {identity: one for (_, identity), one in found.items()}


@pytest.fixture(scope="module")
def own_four(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, saved in 4 bits as Unsloth saves such models: computed with in bfloat16."""
    folder = tmp_path_factory.mktemp("four") / "base"
    how = FOUR | {"bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": torch.bfloat16}
    plain_quantised(tiny_run / "base", **how).save_pretrained(folder)
    return folder


def test_asked_for_4_bits_scores_are_those_of_a_plain_forward_in_4_bits(tiny_run: Path) -> None:
    rollouts, checkpoint = sampled(tiny_run, 21)[::13], tiny_run / "checkpoint-20"
    found = replayed(a_base(tiny_run / "base", quantize="4bit"), checkpoint, rollouts)
    plain = plain_quantised(tiny_run / "base", bnb_4bit_compute_dtype=torch.float32, **FOUR)
    other = plain_quantised(tiny_run / "base", bnb_4bit_compute_dtype=torch.float32, **FOUR)
    adapted = PeftModel.from_pretrained(other, checkpoint).eval()
    truth = plain_of(plain, adapted, rollouts)
    assert len(found) == 10
    for identity, one in found.items():
        assert_same(one, truth[identity], rtol=1e-4, atol=2e-5)
    # The same in 16 bits is another model.
    bare = replayed(a_base(tiny_run / "base"), checkpoint, rollouts)
    apart = [np.abs(bare[i].ref_logprob - found[i].ref_logprob).max() for i in found]
    assert max(apart) > 0.05


def test_a_base_saved_in_4_bits_is_that_model_computed_in_the_precision_of_the_scan(
    tiny_run: Path, own_four: Path
) -> None:
    rollouts, checkpoint = sampled(tiny_run, 21)[::13], tiny_run / "checkpoint-20"
    found = replayed(a_base(own_four), checkpoint, rollouts)

    def own() -> Any:
        model = AutoModelForCausalLM.from_pretrained(
            own_four, dtype=torch.float32, device_map="cpu"
        )
        for module in model.modules():
            if hasattr(module, "compute_dtype"):
                assert module.compute_dtype == torch.bfloat16
                module.compute_dtype = torch.float32
        return model.eval()

    truth = plain_of(own(), PeftModel.from_pretrained(own(), checkpoint).eval(), rollouts)
    for identity, one in found.items():
        assert_same(one, truth[identity], rtol=1e-4, atol=2e-5)


def test_asked_for_8_bits_scores_are_those_of_a_plain_forward_in_8_bits(tiny_run: Path) -> None:
    # Inputs of layers are rounded to 8 bits: where a last digit turns one, it moves a whole step.
    rollouts, checkpoint = sampled(tiny_run, 21)[::13], tiny_run / "checkpoint-20"
    base = a_base(tiny_run / "base", quantize="8bit")
    found = replayed(base, checkpoint, rollouts, batch_tokens=1)
    plain, other = (plain_quantised(tiny_run / "base", **EIGHT) for _ in range(2))
    truth = plain_of(plain, PeftModel.from_pretrained(other, checkpoint).eval(), rollouts)
    bare = replayed(a_base(tiny_run / "base"), checkpoint, rollouts)
    for name in COLUMNS:
        ours, theirs, plainly = (
            np.concatenate(
                [
                    one[name] if isinstance(one, dict) else getattr(one, name)
                    for one in (where[i] for i in found)
                ]
            )
            for where in (found, truth, bare)
        )
        assert np.median(np.abs(ours - theirs)) < 0.1 * np.median(np.abs(plainly - theirs)), name


def test_a_scan_quantises_on_loading_says_so_and_keeps_passes_apart(
    tiny_run: Path, tmp_path: Path
) -> None:
    options = {"groups": 1, "fixed_groups": 1, "checkpoints": "20", "gradients": 2}

    def scan(name: str, how: Any) -> Report:
        config = ScanConfig(
            run=tiny_run,
            out=tmp_path / name,
            cache_dir=tmp_path / "cache",
            quantize=how,
            **options,
        )
        report = diagnose(config).report
        assert report is not None
        return report

    four, eight = scan("four", "4bit"), scan("eight", "8bit")
    for report, said in ((four, "bitsandbytes 4-bit nf4"), (eight, "bitsandbytes 8-bit")):
        assert report.provenance.reused_passes == 0
        assert report.provenance.options["quantize"] == f"{said[13]}bit"
        assert report.provenance.base["quantisation"] == said
        assert "bitsandbytes" in report.provenance.versions
        assert report.provenance.prefix_sharing
        (skipped,) = [s for s in report.skipped if s.id == "noise-replica"]
        assert f"no replica in float64: the base is quantised ({said})" in skipped.reason
        noise = {m.against for m in report.measurements if m.name == "noise_share"}
        assert noise == {"other-batch"}
        known = [m.value for m in report.measurements if m.name == "gradient_agreement"]
        assert any(value is not None for value in known)
    assert scan("again", "4bit").provenance.reused_passes > 0
    with pytest.raises(ArcaError, match="quantize was '4bit', now '8bit'"):
        scan("again", "8bit")


def test_below_float32_weights_in_4_bits_are_compared_with_float32_and_8_bits_are_not(
    tiny_run: Path,
) -> None:
    model = AdaptedModel(load_model(a_base(tiny_run / "base"), torch.float32, "cpu"))
    four, eight, gptq = (
        Quantisation(method=method, bits=bits)
        for method, bits in (("bitsandbytes", 4), ("bitsandbytes", 8), ("gptq", 4))
    )
    assert higher_precision("bfloat16", model, [four]) == "float32"
    assert higher_precision("bfloat16", model, [eight]) is None
    assert higher_precision("bfloat16", model, [gptq]) is None
    assert higher_precision("bfloat16", model, [four, eight]) is None
    assert higher_precision("float32", model, [four]) is None
    assert higher_precision("float32", model) == "float64"


def test_in_bfloat16_and_float32_the_same_weights_are_quantised(tiny_run: Path) -> None:
    base = a_base(tiny_run / "base", quantize="4bit")
    codes = [
        load_model(base, dtype, "cpu").model.layers[1].mlp.up_proj.weight
        for dtype in (torch.float32, torch.bfloat16)
    ]
    # The sample's base is saved in float32: rounded to bfloat16 first, a few weights that lie
    # between two of the 16 values go to the other.
    assert (codes[0] == codes[1]).double().mean() > 0.98


# What cannot be.


def saved(own_run: Path, **config: Any) -> Path:
    path = own_run / "base" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return own_run


@pytest.mark.parametrize(
    ("config", "asked", "said"),
    [
        ({"quant_method": "gptq", "bits": 4}, None, "gptq 4-bit, which needs .*: optimum, gptqm"),
        ({"quant_method": "awq", "bits": 4}, None, "awq 4-bit, which needs .* gptqmodel"),
        ({"quant_method": "eetq"}, None, "method that cannot be replayed here: 'eetq'"),
        ({"quant_method": ["x"]}, None, r"method that cannot be replayed here: \['x'\]"),
        ({}, None, "method that cannot be replayed here: None"),
        ([1], None, "a quantization_config that is no object"),
        ({"quant_method": "bitsandbytes"}, None, "neither 8 bits nor nf4 or fp4"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "x"}, None, "neither 8 bits nor nf4"),
        ({"load_in_8bit": True}, "4bit", r"quantised already \(bitsandbytes 8-bit\)"),
    ],
)
def test_what_cannot_be_loaded_so_is_said_before_anything_runs(
    own_run: Path, tmp_path: Path, config: Any, asked: Any, said: str
) -> None:
    run = saved(own_run, quantization_config=config)
    with pytest.raises(ArcaError, match=said):
        diagnose(ScanConfig(run=run, out=tmp_path / "out", no_cache=True, quantize=asked))
    assert not (tmp_path / "out").exists()


def test_without_bitsandbytes_the_extra_is_named(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "_is_installed", lambda name: name != "bitsandbytes")
    with pytest.raises(ArcaError, match="not installed: bitsandbytes") as error:
        a_base(tiny_run / "base").quantised("8bit")
    assert "arca-diag[quantized]" in str(error.value.hint)


def test_there_is_no_float64_of_a_quantised_base(tiny_run: Path, own_four: Path) -> None:
    for base in (a_base(tiny_run / "base", quantize="4bit"), a_base(own_four)):
        with pytest.raises(ArcaError, match="no float64"):
            load_model(base, torch.float64, "cpu")


def test_a_gguf_file_is_not_quantised_again(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    base = Base(name="g", folder=tmp_path, gguf_file="model.gguf", revision=None)
    assert base.quantisation is None
    with pytest.raises(ArcaError, match="GGUF file"):
        base.quantised("4bit")


@pytest.mark.parametrize("how", [FOUR, EIGHT])
def test_a_base_that_lies_about_its_weights_is_refused(own_run: Path, how: Any) -> None:
    saved(own_run, quantization_config={"quant_method": "bitsandbytes"} | how)
    with pytest.raises(ArcaError, match=r"says that it is quantised .* weights of model.* are not"):
        load_model(a_base(own_run / "base"), torch.float32, "cpu")


def test_a_pattern_of_a_strangers_base_is_never_matched(own_run: Path, tmp_path: Path) -> None:
    skip = {"load_in_8bit": True, "llm_int8_skip_modules": ["(a+)+$"]}
    run = saved(own_run, quantization_config=skip)
    with pytest.raises(ArcaError, match=r"holds a pattern, '\(a\+\)\+\$'"):
        find_base(None, "base", run, allow_download=False)
    shutil.copytree(run / "base", tmp_path / "mine")
    found = find_base(str(tmp_path / "mine"), "", run, allow_download=False)
    assert str(found.quantisation) == "bitsandbytes 8-bit"


def test_an_original_that_stands_in_is_a_warning_in_16_bits_and_a_note_in_4(tmp_path: Path) -> None:
    base = a_base(tmp_path, stands_for="unsloth/base-bnb-4bit")
    asked = a_base(tmp_path, stands_for="unsloth/base-bnb-4bit", quantize="4bit")
    assert [f.level for f in base_findings(base)] == ["warn"]
    assert [f.level for f in base_findings(asked)] == ["note"]
    assert base_findings(a_base(tmp_path, quantize="4bit")) == []
