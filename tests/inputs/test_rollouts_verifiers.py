import copy
from pathlib import Path
from typing import Any

import pytest

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import verifiers
from arca_diag.inputs.rollouts.record import Notes, Sample
from tests.inputs import EOS, a_run, read_rollouts, write_jsonl
from tests.inputs.hostile import check_broken_lines, check_every_damage

WORK = {"type": "train", "step": 4, "policy": {"start": 2, "end": 3}}


def told(parent: int | None, *ids: int) -> dict[str, Any]:
    """A message that was given to the policy."""
    return {
        "parent": parent,
        "message": {"role": "user", "content": "2+2?"},
        "sampled": False,
        "token_ids": list(ids),
        "mask": [False] * len(ids),
        "logprobs": [],
    }


def said(parent: int | None, *ids: int, credit: float | None = 0.7) -> dict[str, Any]:
    """A message that it sampled: one token of the template, then its own.

    The log-probability of a token is -id / 10, so that its place can be told.
    """
    own = ids[1:]
    return {
        "parent": parent,
        "message": {"role": "assistant", "content": "4"},
        "sampled": True,
        "token_ids": list(ids),
        "mask": ([False] + [True] * len(own))[: len(ids)],
        "logprobs": [-i / 10 for i in own],
        "advantages": None if credit is None else [credit] * len(own),
    }


def episode(*nodes: dict[str, Any], **given: Any) -> dict[str, Any]:
    trace = {
        "id": "t1",
        "rewards": {"correct": {"score": 1.0, "weight": 1.0}, "short": {"score": 0.5, "weight": 2}},
        "nodes": list(nodes) or [told(None, 1, 5), said(0, 8, 9, EOS)],
    }
    plain = {
        "id": "e1",
        "env": {"id": "gsm8k"},
        "group": {"id": "g7"},
        "run": {"type": "train", "id": "r", "work": WORK},
        "ok": True,
        "traces": [trace],
    }
    return plain | given


def traces(root: Path, place: str, *episodes: Any) -> Path:
    folder = root / "rollouts" / place
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "traces.jsonl", episodes)
    return root / "rollouts"


def samples(path: Path, notes: Notes | None = None) -> list[Sample]:
    return list(verifiers.read(path, a_run(), notes or Notes()))


def of(tmp_path: Path, *nodes: dict[str, Any]) -> list[Sample]:
    notes = Notes()
    found = samples(write_jsonl(tmp_path / "traces.jsonl", [episode(*nodes)]), notes)
    assert notes.faults == []
    return found


class TestWhatIsRead:
    def test_one_turn(self, tmp_path):
        notes = Notes()
        assert samples(traces(tmp_path, "step_4/train/effective", episode()), notes) == [
            Sample(
                id="step_4/train/effective/traces.jsonl:1/0/1",
                place="step_4/train/effective/traces.jsonl:1",
                step=2,
                group_id="g7",
                prompt=(1, 5, 8),
                completion=(9, EOS),
                mask=(True, True),
                reward=2.0,
                advantage=(0.7, 0.7),
                sampling_logprobs=(-0.9, -0.2),
            )
        ]
        assert notes.step_source == "the policy's version when the episode began"
        assert notes.group_source == ""

    def test_several_turns_are_one_completion(self, tmp_path):
        (found,) = of(
            tmp_path, told(None, 1), said(0, 3, 4), told(1, 5, 6), said(2, 3, 7), told(3, 9)
        )
        assert found.prompt == (1, 3)
        assert found.completion == (4, 5, 6, 3, 7)
        assert found.mask == (True, False, False, False, True)
        assert repr(found.sampling_logprobs) == "(-0.4, nan, nan, nan, -0.7)"
        assert repr(found.advantage) == "(0.7, nan, nan, nan, 0.7)"

    def test_what_branches_share_counts_once(self, tmp_path):
        """Root, a first answer, and two ways on from it."""
        tree = [
            told(None, 1),
            said(0, 3, 4),
            told(1, 5),
            said(2, 3, 6),
            told(1, 7),
            said(4, 3, 8),
        ]
        first, second = of(tmp_path, *tree)
        assert (first.completion, second.completion) == ((4, 5, 3, 6), (4, 7, 3, 8))
        assert first.prompt == second.prompt == (1, 3)
        assert first.mask == (True, False, False, True)
        assert second.mask == (False, False, False, True)
        assert repr(second.sampling_logprobs) == "(nan, nan, nan, -0.8)"
        assert repr(second.advantage) == "(nan, nan, nan, 0.7)"
        assert first.id != second.id
        sampled = sum(sum(node["mask"]) for node in tree)
        assert sum(first.mask) + sum(second.mask) == sampled == 3

    def test_a_branch_with_nothing_of_its_own_is_left_out(self, tmp_path):
        notes = Notes()
        tree = [told(None, 1), said(0, 3, 4), told(1, 5), told(1, 7)]
        found = samples(write_jsonl(tmp_path / "traces.jsonl", [episode(*tree)]), notes)
        assert [s.completion for s in found] == [(4,)]
        assert notes.left_out == {"no sampled token that no other branch holds": 1}

    def test_a_branch_left_out_counts_nothing(self, tmp_path):
        tree = [told(None, 1), said(0, 3, 4), told(1, 5), said(2), told(1, 7), said(4, 3, 8)]
        (found,) = of(tmp_path, *tree)
        assert found.completion == (4, 7, 3, 8)
        assert found.mask == (True, False, False, True)

    def test_two_roots_are_two_branches(self, tmp_path):
        first, second = of(tmp_path, told(None, 1), told(None, 2), said(1, 3, 4), said(0, 3, 5))
        assert (first.prompt, second.prompt) == ((2, 3), (1, 3))

    def test_an_advantage_that_was_never_given_is_not_zero(self, tmp_path):
        assert of(tmp_path, told(None, 1), said(0, 3, 4, credit=0.0))[0].advantage == (0.0,)
        assert of(tmp_path, told(None, 1), said(0, 3, 4, credit=None))[0].advantage is None
        part = [told(None, 1), said(0, 3, 4), said(1, 3, 6, credit=None)]
        assert of(tmp_path, *part)[0].advantage is None

    def test_what_a_message_was_given_does_not_count_whatever_its_mask(self, tmp_path):
        given = told(None, 1, 5) | {"mask": [True, True]}
        assert of(tmp_path, given, said(0, 8, 9))[0].prompt == (1, 5, 8)

    def test_what_the_trainer_logged(self, tmp_path):
        node = said(0, 8, 9, EOS) | {"trainer_logprobs": [-1, -2], "entropies": [0.5, 0.25]}
        (found,) = of(tmp_path, told(None, 1), node)
        assert found.trainer_logprobs == (-1.0, -2.0)
        assert found.entropies == (0.5, 0.25)

    def test_none_logged_is_none(self, tmp_path):
        (found,) = of(tmp_path, told(None, 1), said(0, 8, 9) | {"logprobs": []})
        assert found.sampling_logprobs is None

    def test_rewards_that_were_not_scored_are_none(self, tmp_path):
        line = episode()
        line["traces"][0]["rewards"] = {"a": None, "b": {"score": 0.5}}
        other = copy.deepcopy(line)
        other["traces"][0]["rewards"] = {"a": None}
        found = samples(write_jsonl(tmp_path / "traces.jsonl", [line, other]))
        assert [s.reward for s in found] == [0.5, None]

    def test_agents_of_an_episode_are_groups_of_their_own(self, tmp_path):
        line = episode()
        line["traces"] = [line["traces"][0] | {"agent": {"name": name}} for name in "ab"]
        found = samples(write_jsonl(tmp_path / "traces.jsonl", [line]))
        assert [s.group_id for s in found] == ["g7/a", "g7/b"]

    def test_without_a_group_it_is_the_prompt_at_its_step(self, tmp_path):
        notes = Notes()
        lines = [episode(group=None), episode(group=None), episode(told(None, 4), said(0, 8, 9))]
        lines[2]["group"] = None
        found = samples(write_jsonl(tmp_path / "traces.jsonl", lines), notes)
        assert found[0].group_id == found[1].group_id != found[2].group_id
        assert notes.group_source == "the same prompt at the same step, where none is recorded"

    def test_a_line_may_be_a_trace(self, tmp_path):
        line = episode()["traces"][0] | {"run": {"work": WORK}, "group": {"id": "g"}}
        (found,) = samples(write_jsonl(tmp_path / "traces.jsonl", [line]))
        assert (found.step, found.reward) == (2, 2.0)

    def test_a_failed_episode_is_left_out(self, tmp_path):
        notes = Notes()
        path = write_jsonl(tmp_path / "traces.jsonl", [episode(ok=False), episode()])
        assert len(samples(path, notes)) == 1
        assert notes.left_out == {"the episode failed": 1}

    def test_text_without_ids_is_left_out(self, tmp_path):
        notes = Notes()
        path = write_jsonl(tmp_path / "traces.jsonl", [episode(told(None), said(0))])
        assert samples(path, notes) == []
        assert notes.left_out == {"no token ids in it": 1}


class TestWhichFiles:
    def test_what_went_into_a_batch_comes_before_all(self, tmp_path):
        traces(tmp_path, "step_1/train/all", episode(), episode())
        traces(tmp_path, "step_1/train/effective", episode())
        root = traces(tmp_path, "step_2/train/all", episode(), episode())
        assert [s.place[:7] for s in samples(root)] == ["step_1/", "step_2/", "step_2/"]

    def test_evaluations_are_counted_and_not_read(self, tmp_path):
        traces(tmp_path, "step_1/eval/all", episode(), episode(), episode())
        traces(tmp_path, "step_1/eval/effective", episode(), episode())
        evaluated = episode(run={"work": {"type": "eval", "step": 1}})
        root = traces(tmp_path, "step_1/train/all", episode(), evaluated)
        notes = Notes()
        assert len(samples(root, notes)) == 1
        assert notes.eval_excluded == 3
        assert [Path(f).parts[-3] for f in notes.files] == ["train"]

    def test_a_run_with_nothing_else_says_so(self, tmp_path):
        traces(tmp_path, "step_1/eval/all", episode())
        with pytest.raises(RolloutError, match="1 left out: sampled by an evaluation"):
            read_rollouts(None, root=tmp_path)

    @pytest.mark.parametrize("run", ["", "run_default"])
    def test_a_runs_traces_are_found(self, tmp_path, run):
        traces(tmp_path / run, "step_1/train/all", episode())
        assert read_rollouts(None, root=tmp_path).source == "verifiers traces: rollouts"

    def test_parts_of_it_can_be_named(self, tmp_path):
        traces(tmp_path, "step_1/train/all", episode())
        root = traces(tmp_path, "step_2/train/all", episode())
        for part in ("step_2", "step_2/train/all", "step_2/train/all/traces.jsonl"):
            (found,) = read_rollouts(root / part).rollouts
            assert found.id.startswith("step_2/")


class TestSteps:
    def step(self, tmp_path: Path, number: int, run: Any) -> int | None:
        notes = Notes()
        root = traces(tmp_path, f"step_{number}/train/all", episode(run=run))
        found = [s.step for s in samples(root, notes) if f"step_{number}/" in s.place]
        assert "folder" in notes.step_source
        return found[0]

    @pytest.mark.parametrize("run", [None, {"work": {"type": "train", "step": 9}}])
    def test_without_a_version_it_is_the_folders(self, tmp_path, run):
        assert self.step(tmp_path, 5, run) == 4

    def test_folders_that_count_from_0(self, tmp_path):
        traces(tmp_path, "step_0/train/all", episode(run=None))
        assert self.step(tmp_path, 5, None) == 5

    def test_a_file_by_itself_has_none(self, tmp_path):
        notes = Notes()
        path = write_jsonl(tmp_path / "traces.jsonl", [episode(run=None)])
        assert [s.step for s in samples(path, notes)] == [None]
        assert notes.step_source == ""


class TestFaults:
    @pytest.mark.parametrize(
        ("nodes", "says"),
        [
            ([told(0, 1)], "node 0 names node 0 as its parent"),
            ([told(1, 1), said(0, 3, 4)], "node 0 names node 1"),
            ([told(None, 1), said(7, 3, 4)], "node 1 names node 7"),
            ([told(None, 1), said(-1, 3, 4)], "node 1 names node -1"),
            ([told(None, 1), said(0, 3, 4) | {"mask": [True]}], "mask must have one entry"),
            ([told(None, 1), said(0, 3, 4) | {"mask": None}], "node 1: mask is missing"),
            ([told(None, 1), said(0, 3, 4) | {"logprobs": [0.0] * 2}], "logprobs must have one"),
            ([said(None, 3, 4) | {"mask": [True, True], "logprobs": []}], "nothing to follow"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_a_tree_that_is_none(self, tmp_path, nodes, says):
        nodes = [node | {"advantages": None} for node in nodes]
        path = write_jsonl(tmp_path / "traces.jsonl", [episode(), episode(*nodes)])
        with pytest.raises(RolloutError, match=rf"^traces\.jsonl:2: .*{says}"):
            read_rollouts(path)

    @pytest.mark.parametrize(
        "scores",
        [[(1e308, 10)], [(1e308, 1), (1e308, 1)], [(1e308, 10), (-1e308, 10)]],
        ids=str,
    )
    def test_a_reward_beyond_any_float(self, tmp_path, scores):
        line = episode()
        line["traces"][0]["rewards"] = {
            str(n): {"score": score, "weight": weight} for n, (score, weight) in enumerate(scores)
        }
        path = write_jsonl(tmp_path / "traces.jsonl", [episode(), line])
        with pytest.raises(RolloutError, match=r"^traces\.jsonl:2: the sum of the rewards"):
            read_rollouts(path)

    @pytest.mark.timeout(20)
    def test_a_tree_that_repeats_itself_without_end(self, tmp_path):
        trunk = [told(None, *[1] * 10_000), *(said(0, 3, 4) for _ in range(5_000))]
        path = write_jsonl(tmp_path / "traces.jsonl", [episode(*trunk)])
        with pytest.raises(RolloutError, match="branches hold more than"):
            read_rollouts(path)

    def test_a_bad_trace_takes_its_episode_and_group(self, tmp_path):
        bad = episode(told(3, 1))
        other = episode(group={"id": "g8"})
        path = write_jsonl(tmp_path / "traces.jsonl", [episode(), bad, other])
        found = read_rollouts(path, skip_bad_lines=True)
        assert [r.group_id for r in found.rollouts] == ["g8"]

    def test_every_damage_is_refused_or_read(self, tmp_path):
        good = episode(told(None, 1, 5), said(0, 8, 9, EOS), said(0, 8, 7))
        refused, read = check_every_damage(tmp_path / "traces.jsonl", good)
        assert refused > 300
        assert read > 300
        check_broken_lines(tmp_path / "traces.jsonl", good)
