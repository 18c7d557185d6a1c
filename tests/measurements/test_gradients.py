"""Agreement with the true gradient against scipy, planted truths, and the scan that measures it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from scipy import stats

from arca_diag.config import resolve
from arca_diag.errors import ArcaError, ResultError
from arca_diag.measurements.evidence import Evidence
from arca_diag.measurements.gradients import AGREEMENTS, BASELINE, measure_gradient_agreement
from arca_diag.pipeline import Diagnosis, diagnose
from arca_diag.replay.layers import UnknownLayers
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import GRADIENTS
from tests.conftest import UNRENDERED

STEP = 7


def evidence(
    completions: Sequence[dict[str, np.ndarray]],
    *,
    clusters: Sequence[str] | None = None,
    own: Sequence[bool] | None = None,
    fixed: Sequence[bool] | None = None,
    measured: Sequence[bool] | None = None,
) -> Evidence:
    """Completions as `gradient`, `factor` and whichever signals a test is about."""
    count = len(completions)
    clusters = clusters or [f"prompt {i}" for i in range(count)]
    tokens, gradients, rows = [], [], []
    for i, given in enumerate(completions):
        n = len(given["gradient"])
        key = {"checkpoint": "c", "rollout_id": f"r{i}", "position": np.arange(n)}
        signals = {name: given.get(name, np.arange(n) * 1.0) for name in SIGNAL_NAMES}
        tokens.append(pd.DataFrame(key | {"counted": True} | signals))
        if measured is None or measured[i]:
            norms = {"gradient_norm": given["gradient"], "output_factor": given["factor"]}
            gradients.append(pd.DataFrame(key | norms))
        rows.append(
            {
                "checkpoint": "c",
                "rollout_id": f"r{i}",
                "group_id": f"g{i}",
                "own_set": own is None or own[i],
                "fixed_set": fixed is not None and fixed[i],
                "n_tokens": n,
                "signal": SIGNAL_NAMES[0],
                "sharpening": 1.0,
                "class": "middle",
            }
        )
    ids = [f"r{i}" for i in range(count)]
    return Evidence(
        tokens=pd.concat(tokens, ignore_index=True),
        trajectories=pd.DataFrame(rows),
        rollouts=pd.DataFrame({"rollout_id": ids, "cluster": list(clusters)}),
        gradients=pd.concat(gradients, ignore_index=True),
        steps={"c": STEP},
    )


def random_completions(count: int, n: int = 12) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [
        {name: rng.exponential(size=n) for name in ("gradient", "factor", *SIGNAL_NAMES)}
        for _ in range(count)
    ]


def one(found: list[Measurement], signal: str | None, name: str) -> Measurement:
    (figure,) = (m for m in found if (m.signal, m.name) == (signal, name))
    return figure


def test_every_figure_is_scipys_spearman_averaged_over_prompts() -> None:
    completions = random_completions(4)
    found = measure_gradient_agreement(evidence(completions, clusters=["a", "a", "b", "c"]))
    assert len(found) == 1 + len(SIGNAL_NAMES) * len(AGREEMENTS)
    for figure in found:
        each = []
        for given in completions:
            g, f = given["gradient"], given["factor"]
            s = given[figure.signal] if figure.signal else f
            pair = {
                BASELINE: (f, g),
                "gradient_agreement": (s, g),
                "gradient_agreement_factor": (s, f),
                "gradient_agreement_quotient": (s, g / f),
                "gradient_agreement_product": (s * f, g),
            }[figure.name]
            each.append(float(stats.spearmanr(*pair).statistic))
        prompts = np.array([np.mean(each[:2]), each[2], each[3]])
        assert figure.value == pytest.approx(prompts.mean(), abs=1e-12)
        low, high = stats.t.interval(0.95, 2, prompts.mean(), stats.sem(prompts))
        assert (figure.low, figure.high) == pytest.approx((low, high), abs=1e-12)
        assert (figure.checkpoint, figure.view) == (STEP, "on-policy")
        assert (figure.sharpening, figure.against, figure.reason) == (None, None, None)
        assert (figure.n_clusters, figure.n_completions, figure.n_tokens) == (3, 4, 48)


def test_a_signal_that_only_knows_the_factor_is_seen_through() -> None:
    completions = []
    for given in random_completions(40, n=30):
        jacobian = given["kl_exact"]
        completions.append(
            {
                "factor": given["factor"],
                "gradient": given["factor"] * jacobian,
                "surprisal": given["factor"] ** 3,
                "residual": jacobian**0.5,
            }
        )
    found = measure_gradient_agreement(evidence(completions))
    value = {(m.signal, m.name): m.value for m in found}
    trivial = value[None, BASELINE]
    assert trivial > 0.4
    assert value["surprisal", "gradient_agreement"] == pytest.approx(trivial)
    assert value["surprisal", "gradient_agreement_factor"] == pytest.approx(1)
    blind = one(found, "surprisal", "gradient_agreement_quotient")
    assert blind.low < 0 < blind.high
    assert value["surprisal", "gradient_agreement_product"] == pytest.approx(trivial)
    # The other knows nothing of the factor and all of what is left without it.
    assert value["residual", "gradient_agreement_quotient"] == pytest.approx(1)
    assert abs(value["residual", "gradient_agreement_factor"]) < 0.1
    assert value["residual", "gradient_agreement_product"] > trivial + 0.2


def test_without_gradients_there_is_nothing_to_say() -> None:
    known = evidence(random_completions(2))
    none = pd.DataFrame(columns=GRADIENTS.names)
    rest = {"tokens": known.tokens, "trajectories": known.trajectories, "rollouts": known.rollouts}
    assert measure_gradient_agreement(Evidence(**rest, gradients=none, steps=known.steps)) == []
    assert measure_gradient_agreement(Evidence(**rest, steps=known.steps)) == []


@pytest.mark.parametrize(
    ("own", "fixed", "views"),
    [
        ([True, True, False], [False, False, True], {"on-policy"}),
        ([True, True, True], [True, True, True], {"on-policy"}),
        ([False, False, False], [True, True, True], {"fixed-set"}),
        ([False, False, True], [True, True, False], {"fixed-set"}),
    ],
)
def test_the_view_is_that_of_the_completions_that_were_measured(
    own: list[bool], fixed: list[bool], views: set[str]
) -> None:
    measured = [True, True, False]
    found = measure_gradient_agreement(
        evidence(random_completions(3), own=own, fixed=fixed, measured=measured)
    )
    assert {m.view for m in found} == views
    assert {m.n_completions for m in found} == {2}


def test_a_token_without_any_factor_is_left_out_of_the_quotient_alone() -> None:
    (given,) = random_completions(1)
    given["factor"][3] = given["gradient"][3] = 0.0
    found = measure_gradient_agreement(evidence([given]))
    known = given["factor"] > 0
    quotient = given["gradient"][known] / given["factor"][known]
    for signal in SIGNAL_NAMES:
        wanted = stats.spearmanr(given[signal][known], quotient).statistic
        assert one(found, signal, "gradient_agreement_quotient").value == pytest.approx(wanted)
        wanted = stats.spearmanr(given[signal], given["gradient"]).statistic
        assert one(found, signal, "gradient_agreement").value == pytest.approx(wanted)


def test_what_is_undefined_is_null_with_the_reason() -> None:
    short = measure_gradient_agreement(evidence(random_completions(3, n=7)))
    assert all(m.value is None and "under 8 tokens" in (m.reason or "") for m in short)
    flat = random_completions(2)
    for given in flat:
        given["residual"][:] = 0.5
    found = measure_gradient_agreement(evidence(flat))
    nothing = one(found, "residual", "gradient_agreement")
    assert nothing.value is None
    assert nothing.reason is not None
    assert nothing.reason.startswith("residual, or what it is compared with, is the same")
    assert one(found, "residual", "gradient_agreement_product").value is not None


def test_the_order_of_the_gradients_rows_moves_nothing() -> None:
    known = evidence(random_completions(5))
    mixed = known.gradients.sample(frac=1, random_state=3).reset_index(drop=True)
    again = Evidence(
        tokens=known.tokens,
        trajectories=known.trajectories,
        rollouts=known.rollouts,
        gradients=mixed,
        steps=known.steps,
    )
    assert measure_gradient_agreement(again) == measure_gradient_agreement(known)


# The scan.


def scan(run: Path, out: Path, **flags: Any) -> Diagnosis:
    options = {"groups": 2, "fixed_groups": 1, "checkpoints": "100", "gradients": 30} | flags
    return diagnose(resolve({"run": run, "out": out, **options}, environ=UNRENDERED))


def figures(found: Diagnosis) -> list[Measurement]:
    return [m for m in found.report.measurements if m.name.startswith("gradient")]


@pytest.fixture(scope="module")
def measured(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Diagnosis:
    return scan(tiny_run, tmp_path_factory.mktemp("gradients") / "out")


def test_a_scan_measures_whole_completions_until_there_are_enough_tokens(
    measured: Diagnosis,
) -> None:
    table = pd.read_parquet(measured.folder / "gradients.parquet")
    tokens = pd.read_parquet(measured.folder / "tokens.parquet")
    assert list(table.columns) == GRADIENTS.names
    keys = ["checkpoint", "rollout_id", "position"]
    whole = tokens[tokens["counted"] & tokens["rollout_id"].isin(table["rollout_id"])]
    assert table[keys].equals(
        table[["rollout_id"]].drop_duplicates().merge(whole[keys], on="rollout_id")[keys]
    )
    lengths = table.groupby("rollout_id", sort=False).size()
    assert lengths[:-1].sum() < 30 <= lengths.sum()
    # Two groups, two prompts: both have a completion among them.
    rollouts = pd.read_parquet(measured.folder / "rollouts.parquet").set_index("rollout_id")
    assert rollouts.loc[lengths.index, "cluster"].nunique() == 2
    assert (table["gradient_norm"] > 0).all()
    merged = table.merge(tokens, on=keys)
    # 1 - pi(y) <= ||e_y - pi|| <= sqrt(2) (1 - pi(y))
    wrong = -np.expm1(-merged["surprisal"])
    assert (merged["output_factor"] >= wrong * (1 - 1e-3) - 1e-6).all()
    assert (merged["output_factor"] <= np.sqrt(2) * wrong * (1 + 1e-3) + 1e-6).all()
    assert {m.view for m in figures(measured)} == {"on-policy"}
    assert one(figures(measured), "surprisal", "gradient_agreement_factor").value > 0.95


def test_a_result_judged_again_keeps_gradients_and_layers_byte_for_byte(
    measured: Diagnosis, tiny_run: Path
) -> None:
    names = ("gradients.parquet", "layers.parquet")
    before = [(measured.folder / name).read_bytes() for name in names]
    again = scan(tiny_run, measured.folder, sharpening=2.0)
    assert again.did == "judged again"
    assert [(measured.folder / name).read_bytes() for name in names] == before
    assert figures(again) == figures(measured)
    assert set(names) <= set(again.report.files)


def test_another_number_of_tokens_is_another_result(measured: Diagnosis, tiny_run: Path) -> None:
    with pytest.raises(ResultError, match="gradients was 30, now 0") as caught:
        scan(tiny_run, measured.folder, gradients=0)
    assert "--force" in caught.value.hint


def test_a_redacted_result_has_the_same_figures_under_other_names(
    measured: Diagnosis, tiny_run: Path, tmp_path: Path
) -> None:
    hidden = scan(tiny_run, tmp_path / "out", redact_text=True)
    assert figures(hidden) == figures(measured)
    open_names, names = (
        set(pd.read_parquet(f.folder / "gradients.parquet")["rollout_id"])
        for f in (measured, hidden)
    )
    assert len(names) == len(open_names)
    assert not names & open_names
    assert figures(scan(tiny_run, tmp_path / "out", redact_text=True, seed=3)) == figures(measured)


def test_a_scan_without_them_has_layers_and_no_gradients(tiny_run: Path, tmp_path: Path) -> None:
    found = scan(tiny_run, tmp_path / "out", gradients=0)
    assert "gradients.parquet" not in found.report.files
    assert "layers.parquet" in found.report.files
    assert not figures(found)


def test_the_final_norms_row_is_the_mean_of_the_residual_column(measured: Diagnosis) -> None:
    """One completion of each prompt of the own set: of two prompts here."""
    layers = pd.read_parquet(measured.folder / "layers.parquet")
    assert layers["layer"].tolist() == [-1, 0, 1, 2, 3]
    last = layers.iloc[-1]
    tokens = pd.read_parquet(measured.folder / "tokens.parquet")
    # The first of each prompt that gradients were taken of are the very same.
    first = pd.read_parquet(measured.folder / "gradients.parquet")["rollout_id"].unique()[:2]
    rows = tokens[tokens["rollout_id"].isin(first) & tokens["counted"]]
    means = rows.groupby("rollout_id")[["residual", "relative_residual"]].mean()
    assert last["n_clusters"] == 2
    assert last["n_tokens"] == len(rows)
    assert last["residual_mean"] == pytest.approx(means["residual"].mean(), rel=1e-5)
    assert last["relative_residual_mean"] == pytest.approx(
        means["relative_residual"].mean(), rel=1e-5
    )


def test_where_the_layers_cannot_be_told_the_report_says_why_and_has_no_table_of_them(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise UnknownLayers("two lists that fit")

    monkeypatch.setattr("arca_diag.replay.layers.find_decoder", none)
    monkeypatch.setattr("arca_diag.replaying.find_decoder", none)
    found = scan(tiny_run, tmp_path / "out", gradients=0)
    assert "layers.parquet" not in found.report.files
    assert not (found.folder / "layers.parquet").exists()
    (skipped,) = (s for s in found.report.skipped if s.id == "layers")
    assert skipped.reason == "no layers.parquet: two lists that fit"
    again = scan(tiny_run, tmp_path / "out", gradients=0, sharpening=2.0)
    assert again.did == "judged again"
    assert skipped in again.report.skipped


def test_too_little_memory_stops_the_scan_before_its_long_work(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: none)
    with pytest.raises(ArcaError, match=r"0\.0 GiB are free"):
        scan(tiny_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
