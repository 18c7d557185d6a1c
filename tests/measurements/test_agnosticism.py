"""How much of a credit kind and place explain, on tables built by hand."""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from arca_diag.diagnostics.agnosticism import Layout, explained_mean
from arca_diag.measurements.agnosticism import measure_agnosticism
from arca_diag.measurements.evidence import Evidence
from arca_diag.redaction import redact
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import Tables

STEP, SHARPENING = 7, 2.0
CLASSES = ("punctuation", "punctuation", "digit", "digit", "word", "word", "word", "word")
EXPLAINED = ("type_explained", "class_explained", "position_explained")
PROMPTS, EACH = 12, 3
Credit = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def even(kinds: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return np.ones(len(kinds))


def by_context(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.exponential(size=len(kinds))


def by_type(kinds: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return np.where(kinds % 2 == 0, 1.0, 1e-6)


def by_class(kinds: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return np.where(kinds < 2, 1.0, 1e-6)


def by_place(kinds: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return np.where(np.arange(len(kinds)) == 0, 1.0, 1e-6)


def no_signal(kinds: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    return np.full(len(kinds), np.nan)


PLANTED: dict[str, Credit] = {
    "surprisal": by_context,
    "entropy": by_type,
    "entropy_reduction": by_class,
    "divergence": by_place,
    "kl_exact": no_signal,
    "residual": even,
}


def evidence(
    planted: Mapping[str, Credit] = PLANTED,
    *,
    prompts: int = PROMPTS,
    lengths: tuple[int, int] = (15, 30),
    seed: int = 0,
) -> Evidence:
    """Completions of tokens of eight types, an uncounted one in front of each."""
    rng = np.random.default_rng(3)
    tokens, trajectories, rollouts = [], [], []
    for i in range(prompts * EACH):
        of = {"rollout_id": f"r{i}", "group_id": f"g{i // EACH}"}
        n = int(rng.integers(*lengths))
        kinds = rng.integers(0, 8, size=n)
        raw = {name: planted.get(name, by_context)(kinds, rng) for name in SIGNAL_NAMES}
        weights = {f"w_{name}": values / values.sum() for name, values in raw.items()}
        tokens.append(
            pd.DataFrame(
                {
                    "checkpoint": "c",
                    **of,
                    "position": np.arange(n + 1),
                    "token_id": [99, *kinds],
                    "token": "x",
                    "token_class": ["special", *(CLASSES[kind] for kind in kinds)],
                    "counted": np.arange(n + 1) > 0,
                    **{name: [np.nan, *values] for name, values in weights.items()},
                }
            )
        )
        rollouts.append(of | {"cluster": f"p{i // EACH}", "completion": f"c{i}"})
        trajectories += [
            {
                "checkpoint": "c",
                **of,
                "own_set": True,
                "fixed_set": i >= EACH,
                "n_tokens": n,
                "signal": name,
                "sharpening": power,
                "class": "no-signal" if planted.get(name) is no_signal else "middle",
            }
            for name in SIGNAL_NAMES
            for power in (1.0, SHARPENING)
        ]
    return Evidence(
        tokens=pd.concat(tokens, ignore_index=True),
        trajectories=pd.DataFrame(trajectories),
        rollouts=pd.DataFrame(rollouts),
        steps={"c": STEP, "other": 9},
        sharpening=SHARPENING,
        seed=seed,
    )


Key = tuple[str | None, str, str | None]


def found_in(of: Evidence, checkpoint: int = STEP, view: str = "on-policy") -> dict[Key, Any]:
    found = [m for m in measure_agnosticism(of) if (m.checkpoint, m.view) == (checkpoint, view)]
    keyed = {(m.signal, m.name, m.against): m for m in found}
    assert len(keyed) == len(found)
    return keyed


@pytest.fixture(scope="module")
def measured() -> dict[Key, Any]:
    return found_in(evidence())


def value(found: Mapping[Key, Measurement], signal: str, name: str) -> float:
    number = found[signal, name, None].value
    assert number is not None
    return number


@pytest.mark.parametrize(
    ("signal", "explains"),
    [
        ("surprisal", set()),
        ("entropy", {"type_explained"}),
        ("entropy_reduction", {"type_explained", "class_explained"}),
        ("divergence", {"position_explained"}),
    ],
)
def test_what_the_credit_goes_by_explains_it_and_nothing_else_does(measured, signal, explains):
    for name in EXPLAINED:
        figure = measured[signal, name, None]
        null = measured[signal, f"{name}_null", None]
        assert null.low <= null.value <= null.high < 0.1
        if name in explains:
            assert figure.low > 0.8
        else:
            assert figure.high < 0.15


def test_the_interval_of_what_is_explained_is_the_jackknifes(measured):
    rows = evidence().tokens
    rows = rows[rows["counted"]]
    completion = rows["rollout_id"].str[1:].astype(int).to_numpy()
    layout = Layout(completion=completion, prompt=np.arange(PROMPTS * EACH) // EACH)
    found = explained_mean(rows["w_entropy"].to_numpy(), rows["token_id"].to_numpy(), layout)
    figure = measured["entropy", "type_explained", None]
    assert (figure.value, figure.low, figure.high) == pytest.approx(
        (found.value, found.low, found.high)
    )
    assert (figure.n_clusters, figure.n_completions) == (PROMPTS, PROMPTS * EACH)


def test_the_interval_of_a_share_is_students_over_prompts(measured):
    figure = measured["surprisal", "class_share", "digit"]
    of = evidence()
    rows = of.tokens[of.tokens["counted"]]
    digit = rows["w_surprisal"].where(rows["token_class"] == "digit", 0.0)
    each = digit.groupby(rows["rollout_id"]).sum()
    prompts = each.groupby(each.index.map(of.rollouts.set_index("rollout_id")["cluster"])).mean()
    expected = stats.t.interval(
        0.95, PROMPTS - 1, loc=prompts.mean(), scale=prompts.std() / math.sqrt(PROMPTS)
    )
    assert (figure.low, figure.high) == pytest.approx(expected)
    assert (figure.n_clusters, figure.n_groups) == (PROMPTS, PROMPTS)
    assert figure.n_completions == PROMPTS * EACH
    assert figure.n_tokens == len(rows)


def test_a_lift_is_credit_over_tokens_of_the_completions_that_have_such_a_token(measured):
    of = evidence()
    lifts = defaultdict(list)
    rows = of.tokens[of.tokens["counted"]]
    cluster = of.rollouts.set_index("rollout_id")["cluster"]
    for rollout, part in rows.groupby("rollout_id"):
        inside = part[part["token_class"] == "punctuation"]
        if len(inside):
            share = len(inside) / len(part)
            lifts[cluster[rollout]].append(inside["w_entropy_reduction"].sum() / share)
    expected = np.mean([np.mean(each) for each in lifts.values()])
    figure = measured["entropy_reduction", "class_lift", "punctuation"]
    assert figure.value == pytest.approx(expected)
    assert figure.value > 3
    assert measured["entropy_reduction", "class_lift", "word"].value < 0.01
    assert measured["divergence", "position_lift", "first"].value > 14
    assert measured["divergence", "position_lift", "last"].value < 0.01
    assert measured["residual", "position_lift", "tenth-4"].value == pytest.approx(1.0)


def test_tokens_that_do_not_count_are_not_looked_at(measured):
    assert not [key for key in measured if key[2] == "special"]


def test_overlap_of_credit_by_kind_is_beyond_random_order_and_of_credit_by_context_is_not(
    measured,
):
    for signal in ("entropy", "surprisal"):
        assert measured[signal, "type_overlap", None].low is None
        null = measured[signal, "type_overlap_null", None]
        if signal == "entropy":
            assert value(measured, signal, "type_overlap") > null.high + 0.03
        else:
            assert null.low - 0.02 < value(measured, signal, "type_overlap") < null.high + 0.02
    texts = measured[None, "token_overlap", None]
    assert texts.sharpening is None
    assert 0.6 < texts.value < 0.9
    assert value(measured, "residual", "type_overlap") == pytest.approx(texts.value)


def test_even_credit_and_a_missing_signal_are_null_with_the_reason(measured):
    for name in EXPLAINED:
        for which in (name, f"{name}_null"):
            assert "its credit is even" in measured["residual", which, None].reason
            assert measured["kl_exact", which, None].reason == "every raw score is exactly zero"
    assert measured["kl_exact", "type_overlap", None].n_completions == 0


def test_a_view_and_a_checkpoint_without_completions_are_null_with_the_reason():
    found = found_in(evidence(), checkpoint=9, view="fixed-set")
    assert {m.reason for m in found.values()} == {"no completion in the fixed set"}
    assert {name for _, name, _ in found} >= {"type_overlap", "token_overlap", *EXPLAINED}


def test_a_view_has_its_own_completions():
    found = found_in(evidence(), view="fixed-set")
    assert found["surprisal", "type_explained", None].n_clusters == PROMPTS - 1


def test_a_null_counts_the_completions_that_its_figure_counts():
    found = found_in(evidence(lengths=(3, 8)))
    for name in EXPLAINED:
        figure, null = (found["surprisal", which, None] for which in (name, f"{name}_null"))
        assert 0 < figure.n_completions < PROMPTS * EACH
        assert null.n_completions == figure.n_completions
        assert null.n_tokens == figure.n_tokens


def test_short_answers_and_a_single_prompt_are_null_with_the_reason():
    short = found_in(evidence(lengths=(2, 5)))
    assert "fewer than 5 tokens" in short["surprisal", "type_explained", None].reason
    alone = found_in(evidence(prompts=1))
    for key in (
        ("surprisal", "class_explained", None),
        ("surprisal", "type_overlap", None),
        (None, "token_overlap", None),
    ):
        assert alone[key].reason.startswith("there is one prompt")


def redacted(of: Evidence) -> Evidence:
    info = SimpleNamespace(fixed_set=[], model_copy=lambda update: None)
    how = SimpleNamespace(options={}, model_copy=lambda update: None)
    report: Any = SimpleNamespace(rollouts=info, provenance=how, model_copy=lambda update: None)
    frames = Tables(
        tokens=of.tokens,
        trajectories=of.trajectories,
        rollouts=of.rollouts.assign(prompt_text=None, completion_text=None, finish_reason=None),
    )
    _, hidden = redact(report, frames, b"salt")
    return dataclasses.replace(
        of, tokens=hidden.tokens, trajectories=hidden.trajectories, rollouts=hidden.rollouts
    )


def test_a_redacted_result_has_the_same_figures_but_those_of_types(measured):
    again = found_in(redacted(evidence()))
    assert again.keys() == measured.keys()
    for key, found in again.items():
        if key[1].startswith(("type", "token")):
            assert found.value is None
            if key[0] not in ("kl_exact",):
                assert found.reason == "token ids are redacted"
        else:
            for limit in ("value", "low", "high"):
                assert getattr(found, limit) == pytest.approx(getattr(measured[key], limit))


def test_without_classes_those_figures_are_null_and_the_others_stand(measured):
    of = evidence()
    of = dataclasses.replace(of, tokens=of.tokens.assign(token_class=None))
    found = found_in(of)
    assert found["entropy", "class_explained", None].reason.startswith("no tokenizer")
    assert found["entropy", "class_explained_null", None].reason.startswith("no tokenizer")
    assert not [key for key in found if key[1] in ("class_lift", "class_share")]
    assert found["entropy", "type_explained", None] == measured["entropy", "type_explained", None]


def test_the_seed_moves_nulls_alone_and_the_same_seed_moves_nothing(measured):
    assert found_in(evidence()) == measured
    other = found_in(evidence(seed=1))
    moved = {key[1] for key, found in other.items() if found != measured[key]}
    assert moved == {"type_overlap_null", *(f"{name}_null" for name in EXPLAINED)}


def test_another_checkpoint_moves_no_figure_of_this_one(measured):
    of = evidence()
    more = of.tokens.assign(checkpoint="other"), of.trajectories.assign(checkpoint="other")
    whole = dataclasses.replace(
        of,
        tokens=pd.concat([more[0], of.tokens], ignore_index=True),
        trajectories=pd.concat([more[1], of.trajectories], ignore_index=True),
        steps={"other": 9, "c": STEP},
    )
    assert found_in(whole) == measured
