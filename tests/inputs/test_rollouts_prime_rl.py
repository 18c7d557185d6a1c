import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import AutoTokenizer

from arca_diag.config import resolve
from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import prime_rl
from arca_diag.inputs.rollouts.record import Notes, Sample, hash_ids
from arca_diag.pipeline import diagnose
from tests.conftest import UNRENDERED
from tests.inputs import EOS, a_run, read_rollouts, sample_copy, write_jsonl
from tests.inputs.hostile import check_broken_lines, check_every_damage


def row(**given: Any) -> dict[str, Any]:
    """A row as the trainer writes it: keys in its order, one turn of three tokens."""
    plain = {
        "schema_version": 1,
        "step": 3,
        "rank": 0,
        "micro_step": 0,
        "micro_sequence_idx": 1,
        "export_sequence_idx": 4,
        "env_name": "math",
        "token_ids": [1, 9, 7, 8, EOS],
        "position_ids": [0, 1, 2, 3, 4],
        "loss_mask": [False, False, True, True, True],
        "advantages": [0.0, 0.0, 0.7, 0.7, 0.7],
        "inference_logprobs": [0.0, 0.0, -0.3, -1.2, -0.1],
        "trainer_logprobs": [-9.0, -2.0, -0.31, -1.19, -0.11],
        "entropy": [9.0, 2.0, 0.8, 1.9, 0.2],
        "mismatch_kl": [0.0, 0.0, 1e-5, 1e-5, 1e-5],
        "is_masked": [False] * 5,
        "rl_weights": [None] * 5,
    }
    return plain | given


def export(root: Path, steps: dict[int, list[Any]], stable: bool = True) -> Path:
    for step, rows in steps.items():
        folder = root / "token_exports" / f"step_{step}"
        folder.mkdir(parents=True)
        write_jsonl(folder / "rank_0.jsonl", rows)
        if stable:
            (folder / "STABLE").touch()
    return root / "token_exports"


def samples(path: Path, notes: Notes | None = None) -> list[Sample]:
    return list(prime_rl.read(path, a_run(), notes or Notes()))


def one(tmp_path: Path, **given: Any) -> Sample:
    notes = Notes()
    (found,) = samples(write_jsonl(tmp_path / "rank_0.jsonl", [row(**given)]), notes)
    assert notes.n_faults == 0
    return found


class TestWhatIsRead:
    def test_one_turn(self, tmp_path):
        notes = Notes()
        (found,) = samples(export(tmp_path, {3: [row()]}), notes)
        assert found == Sample(
            id="3/0/1/0",
            place="step_3/rank_0.jsonl:1",
            step=2,
            group_id=f"{hash_ids([1, 9])}@2",
            prompt=(1, 9),
            completion=(7, 8, EOS),
            mask=(True, True, True),
            advantage=(0.7, 0.7, 0.7),
            sampling_logprobs=(-0.3, -1.2, -0.1),
            trainer_logprobs=(-0.31, -1.19, -0.11),
            entropies=(0.8, 1.9, 0.2),
        )
        assert "one step less" in notes.step_source
        assert notes.group_source == "the same prompt at the same step: none is recorded"

    def test_a_tools_turn_stays_and_does_not_count_and_the_end_is_cut(self, tmp_path):
        found = one(tmp_path, loss_mask=[False, True, False, True, False])
        assert (found.prompt, found.completion) == ((1,), (9, 7, 8))
        assert found.mask == (True, False, True)
        assert repr(found.sampling_logprobs) == "(0.0, nan, -1.2)"
        assert repr(found.advantage) == "(0.0, nan, 0.7)"

    def test_packed_rows_fall_apart_where_positions_begin_again(self, tmp_path):
        packed = row(
            token_ids=[1, 9, 7, 1, 8, 6, 0, 0],
            position_ids=[0, 1, 2, 0, 1, 2, 0, 0],
            loss_mask=[0, 0, 1, 0, 1, 1, 0, 0],
            **{
                key: [float(i) for i in range(8)]
                for key in ("advantages", "inference_logprobs", "trainer_logprobs", "entropy")
            },
        )
        first, second = samples(write_jsonl(tmp_path / "rank_0.jsonl", [packed]))
        assert (first.prompt, first.completion, first.entropies) == ((1, 9), (7,), (2.0,))
        assert (second.prompt, second.completion) == ((1,), (8, 6))
        assert second.entropies == second.advantage == second.sampling_logprobs == (4.0, 5.0)
        assert first.id != second.id
        assert first.place == second.place

    def test_an_advantage_of_another_loss_is_missing_and_not_zero(self, tmp_path):
        assert one(tmp_path, advantages=[None] * 5).advantage is None
        assert one(tmp_path, advantages=[None, None, 0.0, 0.0, 0.0]).advantage == (0.0, 0.0, 0.0)

    def test_a_reward_is_that_of_every_token(self, tmp_path):
        assert one(tmp_path, rewards=[0.0, 0.0, 1.0, 1.0, 1.0]).reward == 1.0
        assert one(tmp_path, rewards=[0.0, 0.0, 1.0, 0.5, 1.0]).reward is None
        assert one(tmp_path, rewards=[None] * 5).reward is None

    def test_the_same_prompt_at_one_step_is_a_group(self, tmp_path):
        rows = [row(), row(token_ids=[1, 9, 4, 4, EOS]), row(token_ids=[1, 5, 4, 4, EOS])]
        here = samples(export(tmp_path, {3: rows, 4: [row()]}))
        groups = [s.group_id for s in here]
        assert groups[0] == groups[1]
        assert len(set(groups)) == 3

    def test_a_row_without_a_token_to_train_on_is_left_out(self, tmp_path):
        notes = Notes()
        path = write_jsonl(tmp_path / "rank_0.jsonl", [row(loss_mask=[False] * 5), row()])
        assert len(samples(path, notes)) == 1
        assert notes.left_out == {"no token of the sequence is trained on": 1}

    def test_other_temperatures_than_the_first_are_left_out(self, tmp_path):
        reason = "sampled at several temperatures, or at another than the first"
        rows = [
            row(temperatures=[0.0, 0.0, 0.7, 0.7, 0.7]),  # what a prompt has is nothing
            row(temperatures=[1.0, 1.0, 0.7, 0.7, 1.0]),
            row(temperatures=[0.7, 0.7, 1.0, 1.0, 1.0]),
            row(temperature=0.7),
            row(temperature=1.0),
        ]
        notes = Notes()
        found = samples(write_jsonl(tmp_path / "rank_0.jsonl", rows), notes)
        assert [s.place for s in found] == ["rank_0.jsonl:1", "rank_0.jsonl:4"]
        assert notes.left_out == {reason: 3}


class TestSteps:
    def test_steps_that_count_from_0_have_done_as_many(self, tmp_path):
        notes = Notes()
        found = samples(export(tmp_path, {n: [row(step=n)] for n in (10, 0, 9)}), notes)
        assert [s.step for s in found] == [0, 9, 10]
        assert "as many steps" in notes.step_source

    def test_the_folder_counts_before_the_row(self, tmp_path):
        """With several runs in one trainer, rows hold the trainer's step and folders the run's."""
        (found,) = samples(export(tmp_path, {7: [row(step=30)]}))
        assert found.step == 6

    def test_a_file_by_itself_has_its_rows_step(self, tmp_path):
        assert one(tmp_path, step=5).step == 4
        assert one(tmp_path, step=None).step is None

    def test_one_step_and_one_file_can_be_named(self, tmp_path):
        root = export(tmp_path, {0: [row()], 3: [row(), row()]})
        assert {s.step for s in samples(root / "step_3")} == {3}
        assert {s.step for s in samples(root / "step_3" / "rank_0.jsonl")} == {3}

    def test_a_step_that_is_not_stable_is_left_out(self, tmp_path):
        export(tmp_path, {1: [row()]})
        root = export(tmp_path, {2: [row(), row()]}, stable=False)
        notes = Notes()
        assert {s.step for s in samples(root, notes)} == {0}
        assert notes.left_out == {"a step whose export was not finished (no STABLE)": 2}

    @pytest.mark.parametrize("run", ["", "run_default"])
    def test_a_runs_exports_are_found(self, tmp_path, run):
        export(tmp_path / run, {1: [row()]})
        assert read_rollouts(None, root=tmp_path).source == "prime-rl token export: token_exports"


class TestFaults:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"token_ids": None}, "token_ids is missing"),
            ({"token_ids": []}, "token_ids is missing or empty"),
            ({"loss_mask": None}, "loss_mask is missing"),
            ({"loss_mask": [True] * 4}, "loss_mask must have one entry"),
            ({"loss_mask": [True] * 5}, "nothing to follow"),
            ({"position_ids": [0, 1]}, "position_ids must have one entry a token, 5: 2"),
            ({"entropy": [1.0]}, "entropy must have one entry"),
            ({"advantages": 0.7}, "advantages must have one entry"),
            ({"step": -1}, "step must be >= 0"),
        ],
        ids=str,
    )
    def test_they_are_named(self, tmp_path, given, says):
        path = write_jsonl(tmp_path / "rank_0.jsonl", [row(), row(**given)])
        with pytest.raises(RolloutError, match=rf"^rank_0\.jsonl:2: .*{says}"):
            read_rollouts(path)

    def test_the_group_of_a_bad_line_can_go(self, tmp_path):
        rows = [row(entropy=[]), row(), row(token_ids=[1, 5, 7, 8, EOS])]
        path = write_jsonl(tmp_path / "rank_0.jsonl", rows)
        (left,) = read_rollouts(path, skip_bad_lines=True).rollouts
        assert left.prompt_ids == (1, 5)

    def test_every_damage_is_refused_or_read(self, tmp_path):
        refused, read = check_every_damage(
            tmp_path / "rank_0.jsonl", row(temperatures=[1.0] * 5, rewards=[1.0] * 5)
        )
        assert refused > 200
        assert read > 100
        check_broken_lines(tmp_path / "rank_0.jsonl", row())


def exported(record: dict[str, Any], step: int) -> dict[str, Any]:
    """A canonical record as prime-rl writes it."""
    prompt, completion = record["prompt_ids"], record["completion_ids"]
    ids = [*prompt, *completion]
    before = [0.0] * len(prompt)
    return row(
        step=step,
        token_ids=ids,
        position_ids=list(range(len(ids))),
        loss_mask=[False] * len(prompt) + [True] * len(completion),
        advantages=before + [record["advantage"]] * len(completion),
        inference_logprobs=[0.0] * len(ids),
        trainer_logprobs=[0.0] * len(ids),
        entropy=[0.0] * len(ids),
    )


@pytest.mark.slow
def test_a_scan_has_the_numbers_of_the_same_completions_given_by_hand(tmp_path):
    run = sample_copy(tmp_path, checkpoints=(20,), tables=(20, 21))
    tokenizer = AutoTokenizer.from_pretrained(run)
    found = read_rollouts(run / "completions", tokenizer).rollouts
    records = [
        {
            "id": f"{step + 1}/0/{line}/0",  # as the export's reader names it
            "step": step,
            "prompt_ids": list(r.prompt_ids),
            "completion_ids": list(r.completion_ids),
            "advantage": r.advantage,
        }
        for step in (19, 20)
        for line, r in enumerate((r for r in found if r.step == step), start=1)
    ]
    by_hand = write_jsonl(tmp_path / "by_hand.jsonl", records)
    steps = {n + 1: [exported(r, n + 1) for r in records if r["step"] == n] for n in (19, 20)}
    tables = []
    for name, rollouts in (("hand", by_hand), ("prime", export(tmp_path, steps))):
        given = {"run": run, "out": tmp_path / name, "checkpoints": "20", "rollouts": rollouts}
        diagnose(resolve(given, environ=UNRENDERED))
        tables.append(pd.read_parquet(tmp_path / name / "tokens.parquet"))
    assert len(tables[0]) > 100
    pd.testing.assert_frame_equal(*tables)
    assert json.loads((tmp_path / "prime" / "report.json").read_text())["rollouts"]["source"] == (
        "prime-rl token export: token_exports"
    )
