"""How much of a signal is rounding: the figures by plain loops, and the traps of low precision."""

import dataclasses
import gc
import io
import json
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import stats

from arca_diag import pipeline, tables
from arca_diag.config import resolve
from arca_diag.inputs.gathered import Inputs
from arca_diag.measurements.evidence import Evidence
from arca_diag.measurements.noise import measure_noise, noise_share
from arca_diag.pipeline import diagnose
from arca_diag.redaction import redact
from arca_diag.replay import noise as replay_noise
from arca_diag.replay.scores import Replayed
from arca_diag.results import Measurement, Report
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import NOISE, Tables, noise_table
from tests.conftest import UNRENDERED, Ragged, batch, ragged
from tests.replay.test_forward import COLUMNS
from tests.test_store import report
from tests.test_tables import STEPS, World, expected_signals, world

SMALL = {"groups": 8, "fixed_groups": 8, "checkpoints": "20"}
ADAPTER_SIGNALS = ("divergence", "kl_exact", "residual", "relative_residual")


# The share of one completion.


@given(ragged(), st.integers(0, 2**32 - 1))
def test_the_share_is_what_plain_loops_give(drawn: Ragged, seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.choice([0.0, 0.5, 1.0, 2.0], size=drawn.values.shape)
    again = np.where(drawn.mask, np.where(drawn.mask, drawn.values, 0.0) * factors, np.inf)
    apart = np.abs(np.where(drawn.mask, drawn.values, np.nan) - again)
    found = noise_share(apart, drawn.values, again, drawn.mask)
    for row in range(len(drawn.rows)):
        pairs = [
            (float(a), float(b))
            for a, b, counts in zip(drawn.values[row], again[row], drawn.mask[row], strict=True)
            if counts
        ]
        size = sum(max(abs(a), abs(b)) for a, b in pairs)
        if size == 0:
            assert np.isnan(found[row])
        else:
            wanted = sum(abs(a - b) for a, b in pairs) / size
            assert found[row] == pytest.approx(wanted, rel=1e-12, abs=1e-300)
            assert 0 <= found[row] <= 1 + 1e-12


def test_the_share_is_zero_for_equal_one_for_vanished_and_undefined_for_zero_scores() -> None:
    one, mask = batch([1.0, 2.0], [1e-30, 0.0], [0.0, 0.0], [2.0, 2.0])
    other, _ = batch([1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [1.0, 3.0])
    apart = np.abs(one - other)
    found = noise_share(apart, one, other, mask)
    np.testing.assert_allclose(found, [0.0, 1.0, np.nan, 2 / 5])
    np.testing.assert_array_equal(found, noise_share(apart, other, one, mask))


def test_a_score_that_is_not_finite_is_refused_where_it_counts() -> None:
    one, mask = batch([1.0, np.nan])
    good = np.ones_like(one)
    for scores in ((one, good, good), (good, one, good), (good, good, one)):
        with pytest.raises(ValueError, match="NaN"):
            noise_share(*scores, mask)


# From the tables.


def rounded(here: World, power: float, every: int = 2) -> list[Replayed]:
    """Some of the completions again, each number off by a factor of its own."""

    def off(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return values * np.exp(power * rng.normal(size=values.shape))

    out = []
    for place, found in enumerate(sorted(here.replayed, key=lambda r: r.rollout.id)):
        if place % every == 0:
            rng = np.random.default_rng(place)
            again = {name: off(getattr(found, name), rng) for name in COLUMNS}
            out.append(dataclasses.replace(found, **again))
    return out


def log_ratios(found: Replayed) -> list[float]:
    """Of the tokens that count."""
    each = found.logprob - found.ref_logprob
    return [float(r) for r, counts in zip(each, found.rollout.mask, strict=True) if counts]


def evidence_of(here: World, noise: pd.DataFrame | None = None) -> Evidence:
    judged = here.judged()
    given = {} if noise is None else {"noise": noise}
    return Evidence(
        tokens=judged.tokens,
        trajectories=judged.trajectories,
        rollouts=judged.rollouts,
        steps=STEPS,
        **given,
    )


Key = tuple[int | str, str, str | None, str | None, str]


def by_key(found: list[Measurement]) -> dict[Key, Measurement]:
    keyed = {(m.checkpoint, m.view, m.signal, m.against, m.name): m for m in found}
    assert len(keyed) == len(found)
    return keyed


def test_the_noise_table_has_every_token_with_the_signals_of_the_reference() -> None:
    here = world()
    again = rounded(here, 0.1)
    frame = noise_table({"float32": again}, STEPS)
    data = Tables(**vars(here.judged()) | {"noise": frame}).to_parquet()["noise.parquet"]
    saved = pd.read_parquet(io.BytesIO(data))
    assert pq.read_schema(io.BytesIO(data)).equals(NOISE)
    assert len(saved) == sum(len(r.logprob) for r in again)
    for found in again:
        rows = saved[
            (saved["checkpoint"] == found.checkpoint) & (saved["rollout_id"] == found.rollout.id)
        ]
        assert list(rows["position"]) == list(range(len(found.logprob)))
        assert set(rows["replica"]) == {"float32"}
        wanted = expected_signals(found)
        for name in SIGNAL_NAMES:
            np.testing.assert_allclose(
                rows[name].to_numpy()[np.array(found.rollout.mask)], wanted[name], rtol=1e-12
            )


def test_the_order_of_batches_does_not_move_the_noise_table() -> None:
    again = rounded(world(), 0.1)
    pd.testing.assert_frame_equal(
        noise_table({"float32": again}, STEPS), noise_table({"float32": again[::-1]}, STEPS)
    )


def test_figures_are_means_over_the_prompts_of_exactly_the_completions_replayed_again() -> None:
    here = world()
    replicas = {"other-batch": rounded(here, 1e-3), "float32": rounded(here, 0.8, every=1)}
    found = by_key(measure_noise(evidence_of(here, noise_table(replicas, STEPS))))
    sets = {
        ("on-policy", name): {r.id for g in groups for r in g.rollouts}
        for name, groups in here.selection.own.items()
    } | {
        ("fixed-set", name): {r.id for g in here.selection.fixed for r in g.rollouts}
        for name in STEPS
    }
    compared = 0
    for (view, checkpoint), members in sets.items():
        for replica, replayed in replicas.items():
            for signal in SIGNAL_NAMES:
                shares: dict[str, list[float]] = {}
                orders: dict[str, list[float]] = {}
                for again in replayed:
                    if again.checkpoint != checkpoint or again.rollout.id not in members:
                        continue
                    first = here.found(checkpoint, again.rollout.id)
                    a = expected_signals(first)[signal]
                    b = expected_signals(again)[signal]
                    size = sum(max(abs(x), abs(y)) for x, y in zip(a, b, strict=True))
                    if size:
                        # A divergence hides the sign that rounding turns.
                        signed = signal == "divergence"
                        x, y = (log_ratios(r) if signed else s for r, s in ((first, a), (again, b)))
                        share = sum(abs(i - j) for i, j in zip(x, y, strict=True)) / size
                        shares.setdefault(again.rollout.cluster, []).append(share)
                    if len(a) >= 8 and len(set(a)) > 1 and len(set(b)) > 1:
                        rho = float(stats.spearmanr(a, b).statistic)
                        orders.setdefault(again.rollout.cluster, []).append(rho)
                for name, wanted in (("noise_share", shares), ("noise_rank_agreement", orders)):
                    one = found[STEPS[checkpoint], view, signal, replica, name]
                    assert one.n_completions == sum(map(len, wanted.values()))
                    assert one.n_clusters == len(wanted)
                    if wanted:
                        mean = np.mean([np.mean(v) for v in wanted.values()])
                        assert one.value == pytest.approx(mean, rel=1e-9)
                        compared += 1
                    else:
                        assert one.value is None
    assert compared > 40
    assert len(found) == 2 * 2 * 2 * 7 * 2


def test_where_no_noise_was_measured_the_figures_are_null_and_say_so() -> None:
    here = world()
    for evidence in (evidence_of(here), evidence_of(here, noise_table({}, {}))):
        found = measure_noise(evidence)
        assert len(found) == 2 * 2 * 7 * 2
        assert {m.against for m in found} == {"other-batch"}
        assert {(m.value, m.reason) for m in found} == {(None, "no noise was measured")}
    # Of one checkpoint alone: the other has none.
    part = [r for r in rounded(here, 0.1) if r.checkpoint == "checkpoint-2"]
    found = measure_noise(evidence_of(here, noise_table({"other-batch": part}, STEPS)))
    reasons = {m.reason for m in found if m.checkpoint == 10}
    assert reasons == {"no noise was measured"}
    assert all(m.value is not None for m in found if (m.checkpoint, m.name) == (2, "noise_share"))


def test_zero_both_times_is_undefined_and_says_so() -> None:
    here = world(still=True)
    replicas = {"other-batch": here.replayed}
    found = by_key(measure_noise(evidence_of(here, noise_table(replicas, STEPS))))
    for signal in ("divergence", "kl_exact", "residual", "relative_residual"):
        one = found[2, "fixed-set", signal, "other-batch", "noise_share"]
        assert (one.value, one.reason) == (None, "exactly zero both times")
        one = found[2, "fixed-set", signal, "other-batch", "noise_rank_agreement"]
        assert one.value is None
        assert one.reason == "the same at every token in every completion of 8 tokens or more"
    assert found[2, "fixed-set", "surprisal", "other-batch", "noise_share"].value == 0.0


def test_short_completions_have_a_share_and_no_order() -> None:
    here = world()
    short = [r for r in rounded(here, 0.1, every=1) if 0 < r.rollout.n_counted < 8]
    found = by_key(measure_noise(evidence_of(here, noise_table({"other-batch": short}, STEPS))))
    one = found[2, "on-policy", "surprisal", "other-batch", "noise_rank_agreement"]
    assert (one.value, one.reason) == (None, "every completion counts fewer than 8 tokens")
    assert found[2, "on-policy", "surprisal", "other-batch", "noise_share"].value is not None


def test_the_noise_of_a_residual_is_that_of_its_vector_not_of_its_norm() -> None:
    """Pure rounding in many dimensions has nearly the same norm every time."""
    here, rng = world(), np.random.default_rng(5)

    def replay(size: float) -> tuple[list[Replayed], list[Replayed]]:
        pair: tuple[list[Replayed], list[Replayed]] = ([], [])
        for found in here.replayed:
            true = size * rng.normal(size=(len(found.logprob), 500))
            for out in pair:
                shift = true + 1e-6 * rng.normal(size=true.shape)
                norm = np.linalg.norm(shift, axis=1)
                out.append(dataclasses.replace(found, shift=shift, residual=norm))
        return pair

    def share(size: float, signal: str) -> tuple[float, float]:
        first, again = replay(size)
        frame = noise_table({"other-batch": again}, STEPS, first)
        norms = {(r.checkpoint, r.rollout.id): r.residual for r in first}
        sizes = [np.abs(r.residual / norms[r.checkpoint, r.rollout.id] - 1).max() for r in again]
        tokens = here.judged().tokens.set_index(["checkpoint", "rollout_id", "position"])
        keys = pd.MultiIndex.from_frame(frame[["checkpoint", "rollout_id", "position"]])
        tokens.loc[keys, ["residual", "relative_residual"]] = frame[
            ["residual", "relative_residual"]
        ].to_numpy()
        evidence = dataclasses.replace(
            evidence_of(here, frame), tokens=tokens.reset_index()[here.judged().tokens.columns]
        )
        found = by_key(measure_noise(evidence))
        value = found[2, "fixed-set", signal, "other-batch", "noise_share"].value
        assert value is not None
        return value, float(max(sizes))

    for signal in ("residual", "relative_residual"):
        pure, norms = share(0.0, signal)
        assert pure == pytest.approx(1.0, abs=0.1)
        assert norms < 0.2  # what a comparison of norms would have seen
        clear, _ = share(1e-3, signal)
        assert clear == pytest.approx(1e-3, rel=0.2)


def test_redacted_noise_has_no_name_and_the_same_figures() -> None:
    here = world()
    noise = noise_table({"other-batch": rounded(here, 0.1)}, STEPS)
    judged = dataclasses.replace(here.judged(), noise=noise)
    _, hidden = redact(report(), judged, b"salt")
    assert not set(hidden.noise["rollout_id"]) & set(noise["rollout_id"])
    found = measure_noise(
        Evidence(
            tokens=hidden.tokens,
            trajectories=hidden.trajectories,
            rollouts=hidden.rollouts,
            noise=hidden.noise,
            steps=STEPS,
        )
    )
    as_open = measure_noise(evidence_of(here, noise))
    assert len(found) == len(as_open)
    for one, other in zip(found, as_open, strict=True):
        # Prompts are summed in the order of their names: the last digit may differ.
        summed = {k: getattr(one, k) for k in ("value", "low", "high")}
        assert one.model_copy(update={k: getattr(other, k) for k in summed}) == other
        for name, number in summed.items():
            assert getattr(other, name) == (number and pytest.approx(number, rel=1e-9))


# On a run.


def scale(run: Path, factor: float) -> None:
    """Scale what checkpoint 20's adapter does, by its B matrices."""
    path = run / "checkpoint-20" / "adapter_model.safetensors"
    save_file({k: factor * v if ".lora_B." in k else v for k, v in load_file(path).items()}, path)


Scan = Callable[[float, str], tuple[Report, Path]]


@pytest.fixture(scope="module")
def scan(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """Scan the small run with its adapter scaled by a factor, in some precision; each once."""
    done: dict[tuple[float, str], tuple[Report, Path]] = {}

    def scan(factor: float, dtype: str) -> tuple[Report, Path]:
        if (factor, dtype) not in done:
            folder = tmp_path_factory.mktemp("noise")
            run = Path(shutil.copytree(tiny_run, folder / tiny_run.name))
            if factor != 1:
                scale(run, factor)
            flags = {"run": run, "out": folder / "out", "dtype": dtype, **SMALL}
            found = diagnose(resolve(flags, environ=UNRENDERED))
            done[factor, dtype] = found.report, found.folder
        return done[factor, dtype]

    return scan


def shares(found: Report, against: str) -> dict[tuple[str, str], Measurement]:
    return {
        (m.view, m.signal or ""): m
        for m in found.measurements
        if m.name == "noise_share" and m.against == against
    }


def test_a_faint_adapter_in_bfloat16_is_surely_noise_against_float32(scan: Scan) -> None:
    found = shares(scan(1e-3, "bfloat16")[0], "float32")
    for view in ("on-policy", "fixed-set"):
        for signal in ADAPTER_SIGNALS:
            one = found[view, signal]
            assert one.n_clusters == 8
            assert one.low is not None
            assert one.low > 0.1, (view, signal)
        # What the base says of itself is no difference of large numbers, and stands.
        for signal in ("surprisal", "entropy"):
            assert (found[view, signal].high or 1) < 0.1


def test_a_trained_adapter_in_float32_is_surely_above_the_noise_in_every_signal(
    scan: Scan,
) -> None:
    whole = scan(1.0, "float32")[0]
    found = shares(whole, "other-batch")
    assert len(found) == 14
    for key, one in [*found.items(), *shares(whole, "float64").items()]:
        assert one.high is not None, key
        assert one.high < 0.01, key
    assert not shares(whole, "float32")


def test_an_adapter_too_faint_for_float32_is_noise_against_float64(scan: Scan) -> None:
    report, folder = scan(1e-7, "float32")
    for view in ("on-policy", "fixed-set"):
        faint = shares(report, "float64")[view, "residual"]
        assert faint.low is not None
        assert faint.low > 0.3
    frame = pd.read_parquet(folder / "noise.parquet")
    assert (frame["residual"] > 0).mean() > 0.5


def test_an_adapter_too_faint_for_bfloat16_is_all_zero_there_and_all_noise(scan: Scan) -> None:
    found, folder = scan(1e-5, "bfloat16")
    tokens = pd.read_parquet(folder / "tokens.parquet")
    noise = pd.read_parquet(folder / "noise.parquet")
    assert not tokens["residual"].any()
    assert noise[noise["replica"] == "float32"]["residual"].max() > 0
    for view in ("on-policy", "fixed-set"):
        one = shares(found, "float32")[view, "residual"]
        assert (one.value, one.low, one.high) == (1.0, 1.0, 1.0)
        again = shares(found, "other-batch")[view, "residual"]
        assert (again.value, again.reason) == (None, "exactly zero both times")


def test_the_float32_replica_of_a_bfloat16_scan_is_what_a_float32_scan_replays(
    scan: Scan,
) -> None:
    """Weights rounded to bfloat16 and widened again would be off by a hundredth."""
    noise = pd.read_parquet(scan(1e-3, "bfloat16")[1] / "noise.parquet")
    high = noise[noise["replica"] == "float32"]
    whole = pd.read_parquet(scan(1e-3, "float32")[1] / "tokens.parquet")
    keys = ["checkpoint", "rollout_id", "position"]
    both = high.merge(whole, on=keys, suffixes=("", "_whole"), validate="1:1")
    assert len(both) == len(high) > 200
    for signal in SIGNAL_NAMES:
        gap = (both[signal] - both[f"{signal}_whole"]).abs()
        assert gap.max() <= 1e-2 * both[f"{signal}_whole"].max() + 2e-5, signal


def test_the_low_precision_model_is_gone_before_the_base_comes_again_in_float32(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first: list[Any] = []
    heard: list[str] = []
    load = pipeline.load_adapted

    def load_first(inputs: Inputs, dtype: str, device: str) -> Any:
        model, left = load(inputs, dtype, device)
        first.append(weakref.ref(model.base))
        return model, left

    def load_again(inputs: Inputs, dtype: str, device: str) -> Any:
        heard.append(dtype)
        assert first[0]() is None
        return load(inputs, dtype, device)

    monkeypatch.setattr(pipeline, "load_adapted", load_first)
    monkeypatch.setattr(replay_noise, "load_adapted", load_again)
    gc.collect()
    flags = {"run": tiny_run, "out": tmp_path / "out", "dtype": "bfloat16", "groups": 1}
    diagnose(resolve(flags | {"fixed_groups": 1, "checkpoints": "20"}, environ=UNRENDERED))
    assert heard == ["float32"]


def test_a_result_of_before_noise_was_kept_is_judged_again_without_it(
    scan: Scan, tiny_run: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(scan(1.0, "float32")[1], tmp_path / "out"))
    (out / "noise.parquet").unlink()
    path = out / "report.json"
    older = json.loads(path.read_bytes())
    del older["files"]["noise.parquet"]
    path.write_text(json.dumps(older))
    flags = {"run": tiny_run, "out": out, "dtype": "float32", "sharpening": 2.0, **SMALL}
    again = diagnose(resolve(flags, environ=UNRENDERED))
    assert again.did == "judged again"
    found = shares(again.report, "other-batch").values()
    assert {(m.value, m.reason) for m in found} == {(None, "no noise was measured")}
    assert pd.read_parquet(out / "noise.parquet").empty


def test_noise_is_judged_again_to_the_same_figures(
    scan: Scan, tiny_run: Path, tmp_path: Path
) -> None:
    before, folder = scan(1.0, "float32")
    out = Path(shutil.copytree(folder, tmp_path / "out"))
    saved = (out / "noise.parquet").read_bytes()
    flags = {"run": tiny_run, "out": out, "dtype": "float32", "sharpening": 2.0, **SMALL}
    again = diagnose(resolve(flags, environ=UNRENDERED))
    assert again.did == "judged again"
    assert shares(again.report, "other-batch") == shares(before, "other-batch")
    assert (out / "noise.parquet").read_bytes() == saved
    assert tables.NOISE.equals(pq.read_schema(out / "noise.parquet"))
