"""The tables against tests/reference.py, and the measurements against plain pandas."""

import io
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from arca_diag import shapes, tables
from arca_diag.crediting import judge
from arca_diag.diagnostics.structure import gini_permuted
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.inputs.selection import Group, Selection
from arca_diag.measurements.agreement import measure_agreement
from arca_diag.measurements.concentration import measure_concentration
from arca_diag.measurements.evidence import Evidence
from arca_diag.redaction import pseudonym, redact
from arca_diag.replay.scores import Replayed
from arca_diag.results import Measurement
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.tables import (
    ROLLOUTS,
    TOKENS,
    TRAJECTORIES,
    Tables,
    memberships,
    rollout_table,
    saved_memberships,
    token_table,
)
from arca_diag.verdict import judge_regimes
from tests import reference
from tests.test_store import report

SEVEN = (
    "surprisal",
    "entropy",
    "entropy_reduction",
    "divergence",
    "kl_exact",
    "residual",
    "relative_residual",
)

# The columns of DESIGN.md ("Result folder"), in its order, with their types in parquet.
TEXT, WHOLE, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
DESIGN_TOKENS = {
    "checkpoint": TEXT,
    "checkpoint_step": WHOLE,
    "rollout_id": TEXT,
    "rollout_step": WHOLE,
    "group_id": TEXT,
    "position": pa.int32(),
    "token_id": WHOLE,
    "token": TEXT,
    "token_class": TEXT,
    "counted": FLAG,
    "surprisal": REAL,
    "entropy": REAL,
    "entropy_reduction": REAL,
    "log_ratio": REAL,
    "divergence": REAL,
    "kl_exact": REAL,
    "residual": REAL,
    "relative_residual": REAL,
    "ref_surprisal": REAL,
    "ref_entropy": REAL,
    "ref_entropy_reduction": REAL,
} | {f"w_{name}": REAL for name in SEVEN}
DESIGN_TRAJECTORIES = {
    "checkpoint": TEXT,
    "checkpoint_step": WHOLE,
    "rollout_id": TEXT,
    "rollout_step": WHOLE,
    "group_id": TEXT,
    "own_set": FLAG,
    "fixed_set": FLAG,
    "n_tokens": pa.int32(),
    "signal": TEXT,
    "sharpening": REAL,
    "gini": REAL,
    "effn_ratio": REAL,
    "gini_corrected": REAL,
    "effn_corrected": REAL,
    "class": TEXT,
}
DESIGN_ROLLOUTS = {
    "rollout_id": TEXT,
    "group_id": TEXT,
    "cluster": TEXT,
    "rollout_step": WHOLE,
    "reward": REAL,
    "advantage": REAL,
    "finish_reason": TEXT,
    "ids_exact": FLAG,
    "n_prompt_tokens": pa.int32(),
    "n_completion_tokens": pa.int32(),
    "prompt_text": TEXT,
    "completion_text": TEXT,
}

COMPARISONS = ("floor_share", "inherited_tv", "gini_permuted", "gini_inner", "effn_inner")
OF_REFERENCE = ("surprisal", "entropy", "entropy_reduction")

STEPS: dict[str, int | None] = {"checkpoint-2": 2, "checkpoint-10": 10}
PIECES = [f"<{i}>" for i in range(40)]


@dataclass(frozen=True)
class World:
    """Everything a scan would have after the replay."""

    rollouts: list[Rollout]
    replayed: list[Replayed]
    selection: Selection

    def tokens(self) -> pd.DataFrame:
        return token_table(iter(self.replayed), STEPS, PIECES)

    def judged(self, *, epsilon: float = 1e-8, sharpening: float = 1.0) -> Tables:
        tokens, trajectories = judge(
            self.tokens(),
            memberships(self.selection, STEPS),
            rollout_table(self.rollouts),
            epsilon=epsilon,
            sharpening=sharpening,
        )
        return Tables(
            tokens=tokens, trajectories=trajectories, rollouts=rollout_table(self.rollouts)
        )

    def found(self, checkpoint: str, rollout: str) -> Replayed:
        return next(
            r for r in self.replayed if (r.checkpoint, r.rollout.id) == (checkpoint, rollout)
        )


def judged(items: list[Rollout], replayed: list[Replayed], steps: dict[str, int | None]) -> Tables:
    """Tables of completions that are every checkpoint's own."""
    groups = group_rollouts(items)
    tokens, trajectories = judge(
        token_table(replayed, steps, None),
        memberships(Selection(own=dict.fromkeys(steps, groups), fixed=(), window=5), steps),
        rollout_table(items),
        epsilon=1e-8,
        sharpening=1.0,
    )
    return Tables(tokens=tokens, trajectories=trajectories, rollouts=rollout_table(items))


def group_rollouts(rollouts: Iterable[Rollout]) -> tuple[Group, ...]:
    """Rollouts in their groups, in step order, as a selection holds them once they are loaded."""
    members: dict[str, list[Rollout]] = {}
    for each in rollouts:
        members.setdefault(each.group_id, []).append(each)
    groups = [
        Group(
            id=name,
            step=found[0].step,
            members=tuple(r.id for r in found),
            rollouts=tuple(found),
        )
        for name, found in members.items()
    ]
    return tuple(sorted(groups, key=lambda g: -1 if g.step is None else g.step))


def rollout(identity: str, *, group: str, step: int | None, length: int, **given: Any) -> Rollout:
    rng = np.random.default_rng(len(identity) + 31 * length)
    fields: dict[str, Any] = {
        "id": identity,
        "step": step,
        "group_id": group,
        "prompt_ids": (1, 2),
        "completion_ids": tuple(int(i) for i in rng.integers(40, size=length)),
        "mask": (True,) * length,
        "reward": 1.0,
        "advantage": 0.5,
        "finish_reason": "stop",
        "prompt_text": "a prompt",
        "completion_text": "a completion",
    }
    return Rollout(**(fields | given))


def scores(item: Rollout, checkpoint: str, seed: int, *, still: bool = False) -> Replayed:
    """Numbers of many orders of magnitude; `still` is an adapter that moves nothing."""
    rng = np.random.default_rng(seed)
    n = len(item.completion_ids)

    def some() -> np.ndarray:
        return rng.exponential(size=n) * 10.0 ** rng.integers(-6, 3, size=n)

    logprob, entropy = -some(), some()
    moved = np.zeros(n) if still else some()
    return Replayed(
        rollout=item,
        checkpoint=checkpoint,
        logprob=logprob,
        entropy=entropy,
        ref_logprob=logprob.copy() if still else -some(),
        ref_entropy=entropy.copy() if still else some(),
        kl_exact=moved.copy(),
        residual=moved,
        ref_norm=1 + some(),
    )


def world(*, still: bool = False) -> World:
    """Ragged rollouts of three prompts: turns, short ones, cut-off ones, a tie of steps."""
    rng = np.random.default_rng(5)
    rollouts = []
    for group in range(6):
        prompt = ((1, 2), (3,), (1, 2), (4, 5, 6), (3,), (4, 5, 6))[group]
        for member in range(3):
            length = int(rng.integers(1, 15))
            mask = tuple(bool(m) for m in rng.random(length) < 0.8)
            rollouts.append(
                rollout(
                    f"g{group}/{member}",
                    group=f"g{group}",
                    step=(0, 1, 3, 9, 12, 12)[group],
                    length=length,
                    mask=mask,
                    prompt_ids=prompt,
                    finish_reason=("stop", "length", None)[member],
                )
            )
    for extra, mask in (("none", (False,) * 6), ("single", (False, True, False)), ("whole", ())):
        length = len(mask) or 20
        rollouts.append(
            rollout(f"g0/{extra}", group="g0", step=0, length=length, mask=mask or (True,) * length)
        )
    groups = {g.id: g for g in group_rollouts(rollouts)}
    selection = Selection(
        own={
            "checkpoint-2": (groups["g0"], groups["g1"], groups["g2"]),
            "checkpoint-10": (groups["g3"], groups["g4"]),
        },
        fixed=(groups["g0"], groups["g4"], groups["g5"]),
        window=5,
    )
    replayed = [
        scores(item, name, seed=10 * place + STEPS[name], still=still)
        for name in STEPS
        for place, item in enumerate(rollouts)
        if item.group_id in {g.id for g in selection.for_checkpoint(name)}
    ]
    # In whatever order the batches came.
    order = np.random.default_rng(6).permutation(len(replayed))
    return World(rollouts, [replayed[i] for i in order], selection)


def turns_of(values: np.ndarray, mask: tuple[bool, ...]) -> list[list[float]]:
    """Counted values, cut wherever an uncounted token lies between."""
    turns: list[list[float]] = [[]]
    for value, counts in zip(values, mask, strict=True):
        if counts:
            turns[-1].append(float(value))
        elif turns[-1]:
            turns.append([])
    return turns


def expected_signals(found: Replayed) -> dict[str, list[float]]:
    """The signals of the counted tokens, by the reference."""
    mask = found.rollout.mask

    def counted(values: np.ndarray) -> list[float]:
        return [float(v) for v, m in zip(values, mask, strict=True) if m]

    def drops(values: np.ndarray) -> list[float]:
        return [x for turn in reference.entropy_reduction(turns_of(values, mask)) for x in turn]

    policy, base = counted(found.logprob), counted(found.ref_logprob)
    moved, norms = counted(found.residual), counted(found.ref_norm)
    return {
        "surprisal": [0 - x for x in policy],
        "entropy": counted(found.entropy),
        "entropy_reduction": drops(found.entropy),
        "log_ratio": [x - y for x, y in zip(policy, base, strict=True)],
        "divergence": [abs(x - y) for x, y in zip(policy, base, strict=True)],
        "kl_exact": counted(found.kl_exact),
        "residual": moved,
        "relative_residual": [x / y for x, y in zip(moved, norms, strict=True)],
        "ref_surprisal": [0 - x for x in base],
        "ref_entropy": counted(found.ref_entropy),
        "ref_entropy_reduction": drops(found.ref_entropy),
    }


def per_completion(frame: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for (checkpoint, identity), rows in frame.groupby(["checkpoint", "rollout_id"], sort=False):
        yield str(checkpoint), str(identity), rows


# The token table.


def schema_of(data: bytes) -> dict[str, pa.DataType]:
    schema = pq.read_schema(io.BytesIO(data))
    return dict(zip(schema.names, schema.types, strict=True))


def test_the_token_files_columns_are_those_of_the_design() -> None:
    files = world().judged().to_parquet()
    found = schema_of(files["tokens.parquet"])
    assert found == DESIGN_TOKENS
    raw = [name for name in DESIGN_TOKENS if not name.startswith("w_")]
    assert list(found)[: len(raw)] == raw  # weights follow, in the package's order of signals


def test_the_other_files_have_the_columns_of_the_design_and_say_which_they_add() -> None:
    files = world().judged().to_parquet()
    trajectories = schema_of(files["trajectories.parquet"])
    assert trajectories.pop("token_share_90") == REAL  # the headline's figure
    for name in COMPARISONS:  # what causes are judged by
        assert trajectories.pop(name) == REAL
    assert trajectories.pop("class_inner") == TEXT
    assert list(trajectories.items()) == list(DESIGN_TRAJECTORIES.items())
    rollouts = schema_of(files["rollouts.parquet"])
    assert rollouts.pop("completion") == TEXT  # the hash that tells distinct completions apart
    assert list(rollouts.items()) == list(DESIGN_ROLLOUTS.items())


def test_files_have_exactly_the_columns_and_types_of_their_schemas() -> None:
    files = world().judged().to_parquet()
    for name, schema in (
        ("tokens", TOKENS),
        ("trajectories", TRAJECTORIES),
        ("rollouts", ROLLOUTS),
    ):
        assert pq.read_schema(io.BytesIO(files[f"{name}.parquet"])).equals(schema)


def test_every_token_of_every_replay_has_one_row_in_a_fixed_order() -> None:
    here = world()
    frame = here.tokens()
    assert [n for n in TOKENS.names if not n.startswith("w_")] == list(frame.columns)
    assert len(frame) == sum(len(r.logprob) for r in here.replayed)
    steps = frame["rollout_step"].tolist()
    keys = list(zip(frame["checkpoint_step"], steps, frame["rollout_id"], strict=True))
    assert keys == sorted(keys)
    backwards = token_table(reversed(here.replayed), STEPS, PIECES)
    pd.testing.assert_frame_equal(frame, backwards)


def test_names_ids_and_positions_stand_beside_the_right_numbers() -> None:
    here = world()
    for checkpoint, identity, rows in per_completion(here.tokens()):
        found = here.found(checkpoint, identity)
        assert rows["position"].tolist() == list(range(len(found.logprob)))
        assert rows["token_id"].tolist() == list(found.rollout.completion_ids)
        assert rows["token"].tolist() == [PIECES[i] for i in found.rollout.completion_ids]
        assert rows["counted"].tolist() == list(found.rollout.mask)
        assert set(rows["checkpoint_step"]) == {STEPS[checkpoint]}
        assert set(rows["rollout_step"]) == {found.rollout.step}
        assert set(rows["group_id"]) == {found.rollout.group_id}


def test_a_tokens_class_is_that_of_its_id() -> None:
    here = world()
    classes = [f"class {i}" for i in range(len(PIECES))]
    frame = token_table(here.replayed, STEPS, PIECES, classes)
    assert frame["token_class"].nunique() > 1
    assert frame["token_class"].tolist() == [f"class {i}" for i in frame["token_id"]]
    assert here.tokens()["token_class"].isna().all()


def test_every_signal_agrees_with_the_reference() -> None:
    here = world()
    for checkpoint, identity, rows in per_completion(here.tokens()):
        counted = rows[rows["counted"]]
        for name, values in expected_signals(here.found(checkpoint, identity)).items():
            np.testing.assert_allclose(counted[name], values, rtol=1e-9, err_msg=name)


def test_drops_are_undefined_where_a_token_does_not_count() -> None:
    frame = world().tokens()
    assert not frame["counted"].all()
    for name in ("entropy_reduction", "ref_entropy_reduction"):
        assert frame.loc[~frame["counted"], name].isna().all()
        assert frame.loc[frame["counted"], name].notna().all()


def test_without_a_tokenizer_and_without_steps_those_columns_are_null() -> None:
    item = rollout("r", group="g", step=None, length=4)
    frame = token_table([scores(item, "bare", 1)], {"bare": None}, None)
    assert frame[["token", "checkpoint_step", "rollout_step"]].isna().all(axis=None)
    back = pq.read_table(io.BytesIO(tables.to_parquet(frame.assign(**nothing()), TOKENS)))
    assert back.column("token").null_count == 4
    assert back.column("checkpoint_step").null_count == 4


def nothing() -> dict[str, float]:
    return {f"w_{name}": math.nan for name in SEVEN}


def test_rollouts_without_a_step_come_first() -> None:
    items = [
        rollout("b", group="g", step=0, length=2),
        rollout("z", group="h", step=None, length=2),
    ]
    frame = token_table([scores(i, "checkpoint-2", 1) for i in items], STEPS, None)
    assert frame["rollout_id"].drop_duplicates().tolist() == ["z", "b"]


def test_no_replay_at_all_gives_tables_without_rows() -> None:
    tokens, trajectories = judge(
        token_table([], STEPS, PIECES),
        memberships(Selection(own=dict.fromkeys(STEPS, ()), fixed=(), window=1), STEPS),
        rollout_table([]),
        epsilon=1e-8,
        sharpening=2.0,
    )
    rollouts = rollout_table([])
    frames = Tables(tokens=tokens, trajectories=trajectories, rollouts=rollouts)
    for data in frames.to_parquet().values():
        assert pq.read_metadata(io.BytesIO(data)).num_rows == 0


# Judging.


@pytest.mark.parametrize("epsilon", [1e-8, 1e-3])
@pytest.mark.parametrize("sharpening", [1.0, 2.0])
def test_weights_figures_and_classes_agree_with_the_reference(
    sharpening: float, epsilon: float
) -> None:
    here = world()
    frames = here.judged(epsilon=epsilon, sharpening=sharpening)
    asked = sorted({1.0, sharpening})
    trajectories = frames.trajectories.set_index(
        ["checkpoint", "rollout_id", "signal", "sharpening"]
    )
    assert trajectories.index.is_unique
    assert len(trajectories) == len(here.replayed) * len(SEVEN) * len(asked)
    seen: Counter[object] = Counter()
    for checkpoint, identity, rows in per_completion(frames.tokens):
        found = here.found(checkpoint, identity)
        signals = expected_signals(found)
        counted = rows[rows["counted"]]
        assert rows.loc[~rows["counted"], [f"w_{n}" for n in SEVEN]].isna().all(axis=None)
        for name in SEVEN:
            raw = signals[name]
            for power in asked:
                weights = reference.credit_weights(raw, epsilon=epsilon, sharpening=power)
                if power == sharpening:
                    np.testing.assert_allclose(counted[f"w_{name}"], weights, rtol=1e-9)
                figures = {k: f(weights) for k, f in reference.DIAGNOSTICS.items()}
                row = trajectories.loc[(checkpoint, identity, name, power)]
                for key, value in figures.items():
                    np.testing.assert_allclose(row[key], value, rtol=1e-9, atol=1e-12)
                assert row["n_tokens"] == len(raw)
                named = reference.classify(
                    figures["gini_corrected"],
                    figures["effn_corrected"],
                    len(raw),
                    no_signal=not any(raw),
                )
                assert row["class"] == named or (named is None and pd.isna(row["class"]))
                seen[named] += 1
    # The data must reach every special case.
    assert {None, "no-signal", "short", "sparse"} <= set(seen)


@pytest.mark.parametrize(("epsilon", "sharpening"), [(1e-8, 1.0), (1e-3, 2.0)])
def test_what_credit_is_compared_with_agrees_with_the_reference(
    sharpening: float, epsilon: float
) -> None:
    here = world()
    frames = here.judged(epsilon=epsilon, sharpening=sharpening)
    trajectories = frames.trajectories.set_index(
        ["checkpoint", "rollout_id", "signal", "sharpening"]
    )
    seen: Counter[object] = Counter()
    for checkpoint, identity, _ in per_completion(frames.tokens):
        found = here.found(checkpoint, identity)
        signals = expected_signals(found)
        closed = found.rollout.finish_reason != "length"
        for name, power in itertools.product(SEVEN, sorted({1.0, sharpening})):
            rule = {"epsilon": epsilon, "sharpening": power}
            raw = signals[name]
            row = trajectories.loc[(checkpoint, identity, name, power)]
            inner = reference.without_ends(raw, closed=closed)
            weights = reference.credit_weights(inner, **rule)
            g, e = reference.gini_corrected(weights), reference.effn_corrected(weights)
            wanted = {
                "floor_share": reference.floor_share(raw, epsilon=epsilon),
                "gini_inner": g,
                "effn_inner": e,
                "inherited_tv": math.nan,
                "gini_permuted": math.nan,
            }
            if name in OF_REFERENCE:
                wanted["inherited_tv"] = reference.total_variation(
                    reference.credit_weights(raw, **rule),
                    reference.credit_weights(signals[f"ref_{name}"], **rule),
                )
            if name == "entropy_reduction":
                alone = np.array([found.rollout.mask])
                wanted["gini_permuted"] = gini_permuted(found.entropy[None], alone, **rule).item()
            for key, value in wanted.items():
                np.testing.assert_allclose(row[key], value, rtol=1e-9, atol=1e-12, err_msg=key)
                seen[key] += not math.isnan(value)
            named = reference.classify(g, e, len(inner), no_signal=not any(inner))
            assert row["class_inner"] == named or (named is None and pd.isna(row["class_inner"]))
            seen[named] += 1
            seen["moved"] += named != row["class"]
            seen["cut off"] += not closed
    # The data must reach every special case.
    cases = {None, "no-signal", "short", "sparse", "leaning-sparse", "moved", "cut off"}
    assert cases | set(COMPARISONS) <= {key for key, times in seen.items() if times}


def test_credit_on_the_ends_alone_leaves_nothing_between_them() -> None:
    item = rollout("r", group="g", step=2, length=9)
    scored = scores(item, "checkpoint-2", 1)
    ends = np.array([5.0, 0, 0, 0, 0, 0, 0, 0, 3.0])
    steps: dict[str, int | None] = {"checkpoint-2": 2}
    frames = judged([item], [replace(scored, residual=ends)], steps)
    row = frames.trajectories.set_index("signal").loc["residual"]
    assert row["class"] == "sparse"
    assert row["class_inner"] == "no-signal"
    assert row[["gini_inner", "effn_inner"]].isna().all()


def test_a_completion_that_was_cut_off_has_no_end_token_to_leave_out() -> None:
    steps: dict[str, int | None] = {"checkpoint-2": 2}
    last = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 900.0])
    found = {}
    for reason in ("stop", "length", None, "a reason of its own"):
        item = rollout("r", group="g", step=2, length=9, finish_reason=reason)
        scored = replace(scores(item, "checkpoint-2", 1), residual=last)
        rows = judged([item], [scored], steps).trajectories.set_index("signal")
        found[reason] = rows.loc["residual", "class_inner"]
    assert found.pop("length") == "sparse"
    assert set(found.values()) == {"uniform"}


def test_another_choice_of_completions_moves_no_figure_of_those_that_stay() -> None:
    here = world()
    whole = here.judged().trajectories
    some = [item for item in here.replayed if item.rollout.group_id in ("g0", "g4")]
    tokens = token_table(some, STEPS, PIECES)
    members = memberships(here.selection, STEPS)
    _, part = judge(tokens, members, rollout_table(here.rollouts), epsilon=1e-8, sharpening=1.0)
    kept = whole[whole["group_id"].isin(["g0", "g4"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, kept, rtol=1e-12, atol=1e-15)


def test_below_two_counted_tokens_every_figure_is_undefined_and_there_is_no_class() -> None:
    frames = world().judged()
    for identity, count in (("g0/none", 0), ("g0/single", 1)):
        rows = frames.trajectories[frames.trajectories["rollout_id"] == identity]
        assert (rows["n_tokens"] == count).all()
        assert rows[[*reference.DIAGNOSTICS, *COMPARISONS]].isna().all(axis=None)
        assert rows[["class", "class_inner"]].isna().all(axis=None)


def test_an_adapter_that_moves_nothing_has_no_signal_and_no_weights() -> None:
    frames = world(still=True).judged()
    rows = frames.trajectories[frames.trajectories["n_tokens"] >= 2]
    for name in ("divergence", "kl_exact", "residual", "relative_residual"):
        of_signal = rows[rows["signal"] == name]
        assert (of_signal["class"] == "no-signal").all()
        assert of_signal[[*reference.DIAGNOSTICS, *COMPARISONS]].isna().all(axis=None)
        assert frames.tokens[f"w_{name}"].isna().all()
    assert (rows.loc[rows["signal"] == "surprisal", "class"] != "no-signal").all()


@pytest.mark.parametrize("cells", [1, 7, 40, 10**9])
def test_how_many_cells_are_judged_at_once_moves_nothing(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = world().judged(sharpening=2.0)
    monkeypatch.setattr(shapes, "_CELLS", cells)
    found = world().judged(sharpening=2.0)
    # Not to the last bit: NumPy adds up rows of another width in another order.
    pd.testing.assert_frame_equal(found.tokens, expected.tokens, rtol=1e-12, atol=0)
    pd.testing.assert_frame_equal(found.trajectories, expected.trajectories, rtol=1e-12, atol=1e-15)


def test_judging_saved_tables_again_gives_what_judging_at_once_gives() -> None:
    here = world()
    at_once = here.judged(epsilon=1e-3, sharpening=2.0)
    files = here.judged(epsilon=1e-8, sharpening=1.0).to_parquet()
    saved = {name: pd.read_parquet(io.BytesIO(data)) for name, data in files.items()}
    tokens, trajectories = judge(
        saved["tokens.parquet"],
        saved_memberships(saved["trajectories.parquet"]),
        saved["rollouts.parquet"],
        epsilon=1e-3,
        sharpening=2.0,
    )
    again = Tables(
        tokens=tokens, trajectories=trajectories, rollouts=saved["rollouts.parquet"]
    ).to_parquet()
    assert again == at_once.to_parquet()


def test_a_completion_is_marked_with_the_sets_that_its_group_is_in() -> None:
    here = world()
    trajectories = here.judged().trajectories
    for name in STEPS:
        own = {g.id for g in here.selection.own[name]}
        fixed = {g.id for g in here.selection.fixed}
        rows = trajectories[trajectories["checkpoint"] == name]
        assert set(rows["group_id"]) == own | fixed
        assert (rows["own_set"] == rows["group_id"].isin(own)).all()
        assert (rows["fixed_set"] == rows["group_id"].isin(fixed)).all()


# Measuring.


def by_key(found: list[Measurement]) -> dict[tuple[Any, ...], Measurement]:
    """By what a figure is of; that of a pair has the other signal in place of the sharpening."""
    keyed = {(m.checkpoint, m.view, m.signal, m.against or m.sharpening, m.name): m for m in found}
    assert all(m.sharpening is None for m in found if m.against)
    assert len(keyed) == len(found)
    return keyed


def figures_of(
    tokens: pd.DataFrame,
    trajectories: pd.DataFrame,
    rollouts: pd.DataFrame,
    steps: dict[str, int | None],
    sharpening: float,
) -> list[Measurement]:
    """Those of each signal and of each pair."""
    evidence = Evidence(
        tokens=tokens,
        trajectories=trajectories,
        rollouts=rollouts,
        steps=steps,
        sharpening=sharpening,
    )
    return [*measure_concentration(evidence), *measure_agreement(evidence)]


def measured(
    frames: Tables, steps: dict[str, int | None] = STEPS, sharpening: float = 1.0
) -> dict[tuple[Any, ...], Measurement]:
    found = figures_of(frames.tokens, frames.trajectories, frames.rollouts, steps, sharpening)
    return by_key(found)


VIEWS = (("on-policy", "own_set"), ("fixed-set", "fixed_set"))
PAIRS = tuple(itertools.combinations(SIGNAL_NAMES, 2))


@pytest.mark.parametrize("sharpening", [1.0, 2.0])
def test_a_measurement_is_the_unweighted_mean_of_cluster_means(sharpening: float) -> None:
    frames = world().judged(sharpening=sharpening)
    found = measured(frames, sharpening=sharpening)
    joined = frames.trajectories.merge(frames.rollouts[["rollout_id", "cluster"]])
    names = list(reference.DIAGNOSTICS)
    checked = 0
    for view, member in VIEWS:
        rows = joined[joined[member]]
        keys = ["checkpoint_step", "signal", "sharpening"]
        for key, part in rows.groupby(keys):
            for name in names:
                defined = part.dropna(subset=[name])
                one = found[key[0], view, key[1], key[2], name]
                wanted = defined.groupby("cluster")[name].mean().mean()
                assert one.value == pytest.approx(wanted, rel=1e-12)
                assert one.reason is None
                assert one.n_clusters == defined["cluster"].nunique()
                assert one.n_groups == defined["group_id"].nunique()
                assert one.n_completions == len(defined)
                assert one.n_tokens == defined["n_tokens"].sum()
                checked += 1
    assert checked == 2 * 2 * 7 * len({1.0, sharpening}) * len(names)
    # Were completions averaged at once, the figure would be another.
    part = joined[(joined["checkpoint_step"] == 2) & joined["own_set"]]
    part = part[(part["signal"] == "surprisal") & (part["sharpening"] == 1.0)]
    one = found[2, "on-policy", "surprisal", 1.0, "gini"]
    assert abs(one.value - part["gini"].mean()) > 1e-4


def test_the_mean_of_a_signal_is_over_counted_tokens_then_completions_then_clusters() -> None:
    frames = world().judged()
    found = measured(frames)
    tokens = frames.tokens[frames.tokens["counted"]].merge(
        frames.rollouts[["rollout_id", "cluster"]]
    )
    sets = frames.trajectories[["checkpoint", "rollout_id", "own_set", "fixed_set"]]
    tokens = tokens.merge(sets.drop_duplicates())
    for view, member in VIEWS:
        for step in (2, 10):
            rows = tokens[tokens[member] & (tokens["checkpoint_step"] == step)]
            for name in SEVEN:
                each = rows.groupby(["cluster", "rollout_id"])[name].mean()
                wanted = each.groupby("cluster").mean().mean()
                one = found[step, view, name, None, "mean"]
                assert one.value == pytest.approx(wanted, rel=1e-12)
                assert one.n_completions == len(each)
                assert one.n_tokens == len(rows)


def test_every_combination_is_measured_and_null_exactly_with_a_reason() -> None:
    found = measured(world(still=True).judged(sharpening=2.0), sharpening=2.0)
    wanted = {
        (step, view, signal, power, name)
        for step in (2, 10)
        for view, _ in VIEWS
        for signal in SEVEN
        for power in (1.0, 2.0)
        for name in reference.DIAGNOSTICS
    }
    wanted |= {(s, v, signal, None, "mean") for s in (2, 10) for v, _ in VIEWS for signal in SEVEN}
    wanted |= {
        (s, v, None, None, f"step_distance_{end}")
        for s in (2, 10)
        for v, _ in VIEWS
        for end in ("median", "max")
    }
    wanted |= {
        (s, v, one, other, name)
        for s in (2, 10)
        for v, _ in VIEWS
        for one, other in PAIRS
        for name in reference.AGREEMENTS
    }
    assert found.keys() == wanted
    still = {"divergence", "kl_exact", "residual", "relative_residual"}
    for one in found.values():
        assert (one.value is None) == (one.reason is not None)
        limits = one.n_clusters > 1 and not (one.name or "").startswith("step_distance")
        assert (one.low is not None) == (one.high is not None) == limits
        if limits:
            assert one.low <= one.value <= one.high
        if one.value is None:
            assert one.n_clusters == one.n_groups == one.n_completions == one.n_tokens == 0
            assert still & {one.signal, one.against}
            if one.against is None:
                assert one.reason == "every raw score is exactly zero"
            else:
                assert (one.reason or "").startswith("one of the two is the same at every token")
        else:
            assert math.isfinite(one.value)
            assert one.against is None or not still & {one.signal, one.against}
    assert found[2, "on-policy", "residual", None, "mean"].value == 0.0


def test_a_checkpoint_without_an_own_set_has_on_policy_figures_that_are_null_with_the_reason() -> (
    None
):
    item = rollout("r", group="g", step=90, length=8)
    (group,) = group_rollouts([item])
    selection = Selection(own={"checkpoint-2": ()}, fixed=(group,), window=5)
    steps: dict[str, int | None] = {"checkpoint-2": 2}
    tokens, trajectories = judge(
        token_table([scores(item, "checkpoint-2", 1)], steps, None),
        memberships(selection, steps),
        rollout_table([item]),
        epsilon=1e-8,
        sharpening=1.0,
    )
    found = by_key(figures_of(tokens, trajectories, rollout_table([item]), steps, 1.0))
    for signal in SEVEN:
        for name, power in (("mean", None), *((n, 1.0) for n in reference.DIAGNOSTICS)):
            one = found[2, "on-policy", signal, power, name]
            assert one.value is None
            assert one.reason == "no completion in its window of steps"
            assert found[2, "fixed-set", signal, power, name].value is not None


def test_completions_too_short_to_measure_are_null_with_that_reason() -> None:
    item = rollout("r", group="g", step=2, length=1)
    (group,) = group_rollouts([item])
    selection = Selection(own={"checkpoint-2": (group,)}, fixed=(), window=5)
    steps: dict[str, int | None] = {"checkpoint-2": 2}
    tokens, trajectories = judge(
        token_table([scores(item, "checkpoint-2", 1)], steps, None),
        memberships(selection, steps),
        rollout_table([item]),
        epsilon=1e-8,
        sharpening=1.0,
    )
    found = by_key(figures_of(tokens, trajectories, rollout_table([item]), steps, 1.0))
    one = found[2, "on-policy", "surprisal", 1.0, "gini_corrected"]
    assert one.value is None
    assert one.reason == "every completion counts fewer than two tokens"


def test_a_completion_that_occurs_k_times_counts_k_times() -> None:
    steps: dict[str, int | None] = {"checkpoint-2": 2}
    long, short = (rollout(f"r{n}", group="g", step=2, length=n) for n in (20, 6))
    copies = [rollout(f"r20-{i}", group="g", step=2, length=20) for i in range(2)]
    found = {}
    for name, items in (("once", [long, short]), ("thrice", [long, short, *copies])):
        (group,) = group_rollouts(items)
        replayed = [
            scores(i, "checkpoint-2", seed=len(i.completion_ids)) for i in items
        ]  # copies have the same numbers
        tokens, trajectories = judge(
            token_table(replayed, steps, None),
            memberships(Selection(own={"checkpoint-2": (group,)}, fixed=(), window=5), steps),
            rollout_table(items),
            epsilon=1e-8,
            sharpening=1.0,
        )
        figures = trajectories[trajectories["signal"] == "surprisal"].set_index("rollout_id")
        one = by_key(figures_of(tokens, trajectories, rollout_table(items), steps, 1.0))[
            2, "on-policy", "surprisal", 1.0, "gini"
        ]
        found[name] = one
        a, b = figures["gini"]["r20"], figures["gini"]["r6"]
    assert found["once"].value == pytest.approx((a + b) / 2)
    assert found["thrice"].value == pytest.approx((3 * a + b) / 4)
    assert found["thrice"].n_completions == 4
    assert found["thrice"].n_tokens == 66
    assert found["thrice"].n_clusters == 1


def agreement_of(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """What SciPy and a walk over all rotations say of one completion; empty if undefined."""
    if len(one) < 8 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return {}
    rho = [stats.spearmanr(one, np.roll(other, k)).statistic for k in range(len(one))]
    overlap = [reference.top20_overlap(one, np.roll(other, k)) for k in range(len(one))]
    line = np.column_stack([np.ones(len(one)), np.arange(len(one))])
    ranks = np.column_stack([stats.rankdata(one), stats.rankdata(other)])
    left = (ranks - line @ np.linalg.lstsq(line, ranks)[0]).T
    return {
        "rank_agreement": rho[0],
        "rank_agreement_null": float(np.mean(rho[1:])),
        "rotation_share": float(np.mean(np.array(rho) > rho[0] - 1e-9)),
        "rank_agreement_partial": stats.pearsonr(*left).statistic,
        "top20_overlap": overlap[0],
        "top20_overlap_null": float(np.mean(overlap[1:])),
    }


def test_what_two_signals_have_in_common_is_what_scipy_says_of_their_counted_tokens() -> None:
    frames = world().judged(sharpening=2.0)
    found = measured(frames, sharpening=2.0)
    clusters = frames.rollouts.set_index("rollout_id")[["cluster", "group_id"]]
    rows = []
    for checkpoint, identity, part in per_completion(frames.tokens[frames.tokens["counted"]]):
        for one, other in PAIRS:
            figures = agreement_of(part[one].to_numpy(), part[other].to_numpy())
            about = {"step": STEPS[checkpoint], "rollout_id": identity, "n_tokens": len(part)}
            rows.append(about | {"signal": one, "against": other} | figures)
    sets = frames.trajectories[["checkpoint_step", "rollout_id", "own_set", "fixed_set"]]
    table = pd.DataFrame(rows).join(clusters, on="rollout_id")
    table = table.merge(
        sets.drop_duplicates().rename(columns={"checkpoint_step": "step"}),
        on=["step", "rollout_id"],
    )
    checked = 0
    for view, member in VIEWS:
        for key, part in table[table[member]].groupby(["step", "signal", "against"]):
            for name in reference.AGREEMENTS:
                defined = part.dropna(subset=[name])
                one = found[key[0], view, key[1], key[2], name]
                wanted = defined.groupby("cluster")[name].mean().mean()
                assert one.value == pytest.approx(wanted, rel=1e-9, abs=1e-12)
                assert (one.signal, one.against, one.sharpening) == (key[1], key[2], None)
                assert one.n_clusters == defined["cluster"].nunique()
                assert one.n_groups == defined["group_id"].nunique()
                assert 2 <= one.n_completions == len(defined) < len(part)
                assert one.n_tokens == defined["n_tokens"].sum()
                checked += 1
    assert checked == 2 * 2 * 21 * 6


def test_each_pair_of_signals_is_measured_once_in_the_order_of_the_signals() -> None:
    found = measured(world().judged())
    pairs = {(m.signal, m.against) for m in found.values() if m.against}
    assert pairs == set(PAIRS)
    assert len(PAIRS) == 21
    assert sum("residual" in pair for pair in PAIRS) == 6


@pytest.mark.parametrize("cells", [1, 40, 10**9])
def test_how_many_cells_are_compared_at_once_moves_no_agreement(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = world().judged()
    expected = measured(frames)
    monkeypatch.setattr(shapes, "_CELLS", cells)
    assert measured(frames) == expected


def test_two_signals_that_cannot_be_compared_are_null_with_the_reason() -> None:
    steps: dict[str, int | None] = {"checkpoint-2": 2}

    def at(length: int, residual: np.ndarray) -> dict[tuple[Any, ...], Measurement]:
        item = rollout("r", group="g", step=2, length=length)
        selection = Selection(own={"checkpoint-2": group_rollouts([item])}, fixed=(), window=5)
        replayed = replace(scores(item, "checkpoint-2", 1), residual=residual)
        tokens, trajectories = judge(
            token_table([replayed], steps, None),
            memberships(selection, steps),
            rollout_table([item]),
            epsilon=1e-8,
            sharpening=1.0,
        )
        return by_key(figures_of(tokens, trajectories, rollout_table([item]), steps, 1.0))

    def reason(found: dict[tuple[Any, ...], Measurement], view: str, name: str) -> str | None:
        return found[2, view, "surprisal", "residual", name].reason

    mixed, even, rising = np.array([3.0, 1, 2, 5, 4, 7, 6, 8, 9]), np.ones(9), np.arange(9.0)
    full = at(9, mixed)
    short = at(7, mixed[:7])
    constant = at(9, even)
    by_place = at(9, rising)
    for name in reference.AGREEMENTS:
        assert reason(full, "on-policy", name) is None
        assert reason(full, "fixed-set", name) == "no completion in the fixed set"
        assert reason(short, "on-policy", name) == "every completion counts fewer than 8 tokens"
        assert (reason(constant, "on-policy", name) or "").startswith(
            "one of the two is the same at every token"
        )
        if name != "rank_agreement_partial":
            assert reason(by_place, "on-policy", name) is None
    assert reason(by_place, "on-policy", "rank_agreement_partial") == (
        "one of the two is the same at every token, or in the order of the tokens, "
        "in every completion of 8 tokens or more"
    )


def test_distances_are_between_the_checkpoints_step_and_the_rollouts() -> None:
    found = measured(world().judged())
    # g0 at step 0 has six completions, g1 at 1 and g2 at 3 have three each.
    assert found[2, "on-policy", None, None, "step_distance_max"].value == 2
    assert found[2, "on-policy", None, None, "step_distance_median"].value == 1.5
    # g0 at 0 has six, g4 and g5 at 12 three each.
    assert found[10, "fixed-set", None, None, "step_distance_max"].value == 10
    assert found[10, "fixed-set", None, None, "step_distance_median"].value == 6
    one = found[10, "on-policy", None, None, "step_distance_max"]
    assert (one.value, one.n_completions, one.n_groups, one.n_clusters) == (2, 6, 2, 2)


def test_distances_are_the_median_and_the_maximum_over_completions_of_a_known_step() -> None:
    items = [
        rollout(f"r{i}", group=f"g{step}", step=step, length=8)
        for i, step in enumerate([9, 10, 10, 12, 40, None, None])
    ]
    steps: dict[str, int | None] = {"checkpoint-10": 10}
    selection = Selection(own={"checkpoint-10": ()}, fixed=group_rollouts(items), window=5)
    tokens, trajectories = judge(
        token_table([scores(i, "checkpoint-10", 1) for i in items], steps, None),
        memberships(selection, steps),
        rollout_table(items),
        epsilon=1e-8,
        sharpening=1.0,
    )
    found = by_key(figures_of(tokens, trajectories, rollout_table(items), steps, 1.0))
    for name, value in (("step_distance_median", 1.0), ("step_distance_max", 30.0)):
        one = found[10, "fixed-set", None, None, name]
        assert (one.value, one.n_completions, one.n_groups, one.n_tokens) == (value, 5, 4, 40)


def test_distances_are_unknown_where_a_step_is() -> None:
    item = rollout("r", group="g", step=None, length=8)
    (group,) = group_rollouts([item])
    steps: dict[str, int | None] = {"adapter": None}
    tokens, trajectories = judge(
        token_table([scores(item, "adapter", 1)], steps, None),
        memberships(Selection(own={"adapter": ()}, fixed=(group,), window=5), steps),
        rollout_table([item]),
        epsilon=1e-8,
        sharpening=1.0,
    )
    found = by_key(figures_of(tokens, trajectories, rollout_table([item]), steps, 1.0))
    one = found["adapter", "fixed-set", None, None, "step_distance_max"]
    assert one.value is None
    assert "unknown" in (one.reason or "")
    assert found["adapter", "fixed-set", "surprisal", 1.0, "gini"].value is not None


# The rollouts table.


def test_a_rollouts_row_says_what_the_rollout_is() -> None:
    item = rollout(
        "r",
        group="g",
        step=3,
        length=3,
        reward=None,
        advantage=(1.0, 5.0, 3.0),
        mask=(True, False, True),
        finish_reason=None,
        ids_exact=False,
    )
    (row,) = rollout_table([item]).to_dict(orient="records")
    assert row["rollout_id"] == "r"
    assert row["group_id"] == "g"
    assert row["cluster"] == item.cluster
    assert row["rollout_step"] == 3
    assert row["reward"] is None
    assert row["advantage"] == 2.0  # over counted tokens
    assert row["finish_reason"] is None
    assert row["ids_exact"] is False
    assert (row["n_prompt_tokens"], row["n_completion_tokens"]) == (2, 3)
    assert (row["prompt_text"], row["completion_text"]) == ("a prompt", "a completion")


# Redaction.


SECRETS = ("SECRETPROMPT", "SECRETANSWER", "SECRETPIECE", "SECRETGROUP", "SECRETID", "SECRETEND")


def redacted(salt: bytes = b"salt") -> tuple[Any, Tables, Tables]:
    """What is left of two prompts full of secrets; the first tables are as they were before."""
    items = [
        rollout(
            f"SECRETID{i}",
            group=f"SECRETGROUP{i // 2}",
            step=2,
            length=6 + i,
            prompt_ids=(7 + i // 2,),
            prompt_text="SECRETPROMPT",
            completion_text="SECRETANSWER",
            finish_reason=("stop", "length", None, "SECRETEND")[i],
        )
        for i in range(4)
    ]
    groups = group_rollouts(items)
    steps: dict[str, int | None] = {"checkpoint-2": 2}
    tokens, trajectories = judge(
        token_table(
            [scores(i, "checkpoint-2", n) for n, i in enumerate(items)],
            steps,
            [f"SECRETPIECE{i}" for i in range(40)],
        ),
        memberships(Selection(own={"checkpoint-2": groups}, fixed=groups[:1], window=5), steps),
        rollout_table(items),
        epsilon=1e-8,
        sharpening=1.0,
    )
    before = Tables(tokens=tokens, trajectories=trajectories, rollouts=rollout_table(items))
    whole = report()
    info = whole.rollouts.model_copy(
        update={"fixed_set": ["SECRETGROUP0"], "unknown_fields": {"SECRETFIELD": 3}}
    )
    after, hidden = redact(whole.model_copy(update={"rollouts": info}), before, salt)
    return after, hidden, before


def cells(data: bytes) -> set[str]:
    """Every distinct value of a parquet file, decompressed, as text."""
    table = pq.read_table(io.BytesIO(data))
    return {str(v) for name in table.column_names for v in table.column(name).to_pylist()}


def test_redacted_tables_hold_no_text_and_no_name() -> None:
    after, hidden, before = redacted()
    assert any("SECRET" in text for text in cells(before.to_parquet()["rollouts.parquet"]))
    for name, data in hidden.to_parquet().items():
        everything = " ".join(cells(data))
        assert "SECRET" not in everything, name
        # Nor in what parquet keeps beside the columns: statistics, dictionaries, metadata.
        assert b"SECRET" not in data
    assert "SECRET" not in after.to_json()


def test_redacted_tables_hold_no_token_ids_nor_their_unsalted_hashes() -> None:
    _, hidden, before = redacted()
    files = hidden.to_parquet()
    tokens = pq.read_table(io.BytesIO(files["tokens.parquet"]))
    for name in ("token", "token_id"):
        assert tokens.column(name).null_count == tokens.num_rows
    # A hash of a short prompt's ids is found by trying; it must not be there without the salt.
    unsalted = {*before.rollouts["cluster"], *before.rollouts["completion"]}
    assert not unsalted & set().union(*(cells(data) for data in files.values()))


def test_equal_names_stay_equal_across_redacted_tables_and_the_report() -> None:
    after, hidden, before = redacted()
    for name in ("rollout_id", "group_id", "cluster", "completion"):
        for was, now in zip(
            (before.tokens, before.trajectories, before.rollouts),
            (hidden.tokens, hidden.trajectories, hidden.rollouts),
            strict=True,
        ):
            if name in was:
                assert now[name].tolist() == [pseudonym(n, b"salt") for n in was[name]]
                assert now[name].nunique() == was[name].nunique()
    assert after.rollouts.fixed_set == [pseudonym("SECRETGROUP0", b"salt")]
    assert after.rollouts.unknown_fields == {}


def test_redaction_keeps_every_number() -> None:
    _, hidden, before = redacted()
    for was, now in ((before.tokens, hidden.tokens), (before.trajectories, hidden.trajectories)):
        names = [n for n in was if pd.api.types.is_float_dtype(was[n]) or n == "class"]
        pd.testing.assert_frame_equal(now[names], was[names], check_exact=True)
    assert hidden.rollouts["finish_reason"].tolist()[:2] == ["stop", "length"]
    assert pd.isna(hidden.rollouts["finish_reason"][2])
    assert hidden.rollouts["finish_reason"][3] == "other"
    lengths = hidden.rollouts["n_completion_tokens"]
    assert lengths.tolist() == before.rollouts["n_completion_tokens"].tolist()


def test_measurements_are_the_same_on_redacted_tables() -> None:
    _, hidden, before = redacted()
    steps: dict[str, int | None] = {"checkpoint-2": 2}
    assert measured(hidden, steps) == measured(before, steps)


def test_redacted_tables_are_judged_again_to_the_same_figures() -> None:
    _, hidden, before = redacted()
    saved = {k: pd.read_parquet(io.BytesIO(v)) for k, v in hidden.to_parquet().items()}
    members = saved_memberships(saved["trajectories.parquet"])
    _, again = judge(
        saved["tokens.parquet"], members, saved["rollouts.parquet"], epsilon=1e-8, sharpening=1.0
    )
    for name in (*reference.DIAGNOSTICS, "class", *COMPARISONS, "class_inner"):
        pd.testing.assert_series_equal(again[name], before.trajectories[name], check_exact=True)
    # One of the four is known to be cut off.
    reasons = saved["rollouts.parquet"]["finish_reason"]
    assert (reasons == "length").sum() == 1


def test_another_salt_gives_other_names() -> None:
    first, second = redacted(b"one")[1], redacted(b"two")[1]
    assert not set(first.rollouts["rollout_id"]) & set(second.rollouts["rollout_id"])


# Verdicts that are facts.


def test_an_adapter_that_moves_nothing_is_no_signal_in_every_view() -> None:
    here = world(still=True)
    frames = here.judged(sharpening=2.0)
    verdicts = [
        v
        for v in judge_regimes(frames.trajectories, frames.rollouts)
        if v.signal in ("divergence", "kl_exact", "residual", "relative_residual")
    ]
    assert {(v.checkpoint, v.view, v.signal, v.sharpening) for v in verdicts} == {
        (step, view, signal, power)
        for step in (2, 10)
        for view, _ in VIEWS
        for signal in ("divergence", "kl_exact", "residual", "relative_residual")
        for power in (1.0, 2.0)
    }
    assert {v.regime for v in verdicts} == {"no-signal"}
    one = next(v for v in verdicts if (v.checkpoint, v.view) == (2, "on-policy"))
    rows = frames.trajectories[
        (frames.trajectories["checkpoint_step"] == 2)
        & frames.trajectories["own_set"]
        & (frames.trajectories["signal"] == "residual")
        & (frames.trajectories["sharpening"] == 1.0)
    ]
    judged = rows[rows["n_tokens"] >= 2]
    assert one.n_completions == len(judged)
    assert one.n_tokens == judged["n_tokens"].sum()
    assert one.left_out == {"short": 0, "undefined": len(rows) - len(judged)}
    assert one.shares["no-signal"].value == 1.0


def test_signals_are_in_the_order_of_the_method() -> None:
    assert set(SIGNAL_NAMES) == set(SEVEN)


def test_a_table_written_a_group_of_rows_at_a_time_is_the_same_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = world().judged().tokens
    whole = pq.ParquetFile(io.BytesIO(tables.to_parquet(frame, TOKENS)))
    monkeypatch.setattr(tables, "_GROUP_ROWS", 5)
    parts = pq.ParquetFile(io.BytesIO(tables.to_parquet(frame, TOKENS)))
    assert (whole.num_row_groups, parts.num_row_groups) == (1, -(-len(frame) // 5))
    assert parts.read().equals(whole.read())
    empty = pq.read_table(io.BytesIO(tables.to_parquet(frame.iloc[:0], TOKENS)))
    assert empty.schema.equals(TOKENS)
