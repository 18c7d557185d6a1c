"""The real sample: SmolLM2-135M-Instruct. Minutes, so in the slow suite only.

Needs the base that `make test-slow` puts into sample_runs/base-models.
"""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from arca_diag.results import ExitCode, Measurement, Report
from tests.conftest import ROOT
from tests.replay.test_forward import one, plain, rollout
from tests.test_end_to_end import command
from tests.test_judging import SEEDS, judged, words
from tests.test_tables import SEVEN

RUN = ROOT / "sample_runs" / "smollm2-addition"
BASE = ROOT / "sample_runs" / "base-models" / "SmolLM2-135M-Instruct"
STEPS = (2, 15, 30, 45, 60)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(autouse=True)
def the_base_is_there() -> None:
    assert (BASE / "model.safetensors").is_file(), "run `make test-slow`, which makes the base"


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of one scan with every default: ten minutes, once."""
    assert (BASE / "model.safetensors").is_file(), "run `make test-slow`, which makes the base"
    out = tmp_path_factory.mktemp("smollm2") / "out"
    threads = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    done = command("scan", RUN, "--out", out, environment=threads, timeout=2100)
    assert done.code == ExitCode.DONE, done.stderr
    return out


def test_the_whole_run_is_scanned_with_every_default(scanned: Path) -> None:
    out = scanned
    report = Report.from_json((out / "report.json").read_bytes())
    assert report.rollouts.ids_exact is True
    assert [c.step for c in report.run.checkpoints] == list(STEPS)
    assert all(c.measured for c in report.run.checkpoints)

    def figure(step: int, view: str, signal: str, name: str) -> Measurement:
        (found,) = (
            m
            for m in report.measurements
            if (m.checkpoint, m.view, m.signal, m.name) == (step, view, signal, name)
            and m.sharpening in (None, 1.0)
        )
        return found

    for step in STEPS:
        for view in ("on-policy", "fixed-set"):
            for signal in SEVEN:
                for name in ("mean", "gini", "effn_ratio", "gini_corrected", "effn_corrected"):
                    assert figure(step, view, signal, name).value is not None

    # Credit piles up as the run learns.
    first, last = (
        figure(step, "on-policy", "surprisal", "gini_corrected").value for step in (2, 60)
    )
    assert first is not None
    assert last is not None
    assert last > first

    # What checkpoint 60 sampled has the entropy that TRL logged for it; training was in bfloat16.
    history = json.loads((RUN / "trainer_state.json").read_bytes())["log_history"]
    (logged,) = (row["entropy"] for row in history if row["step"] == 61 and "entropy" in row)
    tokens = pd.read_parquet(out / "tokens.parquet")
    own = tokens[(tokens["checkpoint_step"] == 60) & (tokens["rollout_step"] == 60)]
    assert own["rollout_id"].nunique() == 32  # the whole batch, or the means differ
    assert own["entropy"].mean() == pytest.approx(logged, rel=0.05)


def test_the_verdicts_are_those_that_a_reader_of_the_paper_would_expect(scanned: Path) -> None:
    """Early surprisal is the base's, late surprisal the run's; the residual ends near even."""
    report = Report.from_json((scanned / "report.json").read_bytes())
    found = {(v.checkpoint, v.view, v.signal): v for v in report.verdicts if v.sharpening == 1}
    assert "credit-inherited" in found[2, "on-policy", "surprisal"].causes
    late = found[60, "on-policy", "surprisal"]
    assert late.regime in ("sparse", "leaning-sparse")
    assert "credit-inherited" not in late.causes
    assert found[60, "on-policy", "residual"].regime in ("uniform", "leaning-uniform")
    assert not any("numeric-noise" in v.causes for v in found.values())
    assert {f.level for f in report.findings} == {"note"}  # a healthy stock run


def test_twenty_other_seeds_flip_no_settled_verdict(scanned: Path) -> None:
    report = Report.from_json((scanned / "report.json").read_bytes())
    first = words(judged(report, scanned))
    settled = {key for key, (regime, _) in first.items() if regime != "inconclusive"}
    assert len(settled) > 40
    for seed in SEEDS:
        said = words(judged(report, scanned, seed=seed))
        assert {key: said[key] for key in settled} == {key: first[key] for key in settled}, seed


def test_eight_completions_agree_with_a_plain_float32_forward() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BASE)
    table = pd.read_parquet(RUN / "completions" / "completions_00061.parquet")
    rollouts = []
    for row in range(0, 32, 4):
        messages = [
            {key: value for key, value in message.items() if value is not None}
            for message in table["prompt"][row]
        ]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        rollouts.append(rollout(str(row), prompt, table["arca_completion_ids"][row]))
    checkpoint = RUN / "checkpoint-60"
    found = one(BASE, checkpoint, rollouts, dtype=torch.float32)
    truth = plain(BASE, checkpoint, rollouts, dtype=torch.float32)
    assert len(found) == 8
    for identity, replayed in found.items():
        # Five times float32's own noise between batch compositions, 4e-5 nats.
        for name in ("logprob", "entropy", "ref_logprob", "ref_entropy", "kl_exact"):
            gap = np.abs(getattr(replayed, name) - truth[identity][name])
            assert gap.max() <= 5 * 4e-5, name
        gap = np.abs(replayed.residual - truth[identity]["residual"])
        assert (gap / truth[identity]["ref_norm"]).max() <= 5e-5
