import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from arca_diag.errors import RolloutError
from arca_diag.inputs.rollouts import logged
from arca_diag.inputs.runs import find_run
from tests.inputs import (
    EOS,
    SAMPLE,
    Found,
    edit_json,
    read_rollouts,
    recorded,
    sample_copy,
    trl_row,
    write_adapter,
    write_parquet,
)
from tests.inputs.odd_values import samples_of

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ m['content'] }}{% if m['role'] == 'assistant' %}{{ eos_token }}{% else %};{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ mark or '>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """The sample's: one character a token, `0` to `9` are 4 to 13, BOS before a text."""
    return PreTrainedTokenizerFast.from_pretrained(str(SAMPLE), local_files_only=True)


@pytest.fixture(scope="module")
def chatty() -> Any:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(SAMPLE), local_files_only=True)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


class Tables:
    """TRL's folder of completion tables in the making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "completions"
        self.folder.mkdir()

    def add(self, number: int, rows: list[dict[str, Any]]) -> Path:
        return write_parquet(self.folder / f"completions_{number:05d}.parquet", rows)

    def read(self, tokenizer: Any = None, **run: Any) -> Found:
        return read_rollouts(self.folder, tokenizer, **run)

    def one(self, row: dict[str, Any], tokenizer: Any = None, **run: Any):
        """Write one row and read it back."""
        self.add(1, [row])
        return self.read(tokenizer, **run).rollouts[0]

    def refused(self, says: str, tokenizer: Any = None, **run: Any) -> RolloutError:
        with pytest.raises(RolloutError, match=says) as caught:
            self.read(tokenizer, **run)
        return caught.value


@pytest.fixture
def tables(tmp_path: Path) -> Tables:
    return Tables(tmp_path)


class TestWithTheRecorder:
    def test_ids_are_as_sampled(self, tables, tokenizer):
        found = tables.one(recorded(3), tokenizer)
        assert found.completion_ids == (15, 7, EOS)
        assert found.ids_exact is True
        assert found.mask == (True, True, True)
        assert found.prompt_ids == (1, 5, 14, 5, 18)  # BOS, 1, +, 1, >
        assert (found.prompt_text, found.completion_text) == ("1+1>", "=3")
        assert found.id == "completions_00001/0"

    def test_the_step_is_the_recorders(self, tables, tokenizer):
        assert tables.one(recorded(0, step=9, arca_gen_step=7), tokenizer).step == 7
        assert tables.one(recorded(0, step=9, arca_gen_step=0), tokenizer).step == 0
        # Pandas writes a gap as NaN.
        assert tables.one(recorded(0, step=9, arca_gen_step=math.nan), tokenizer).step == 8

    def test_a_closing_end_token_means_stop_and_none_means_length(self, tables, tokenizer):
        stopped = recorded(0)
        cut = recorded(1, arca_completion_ids=[15, 5])
        tables.add(1, [stopped, cut])
        assert [r.finish_reason for r in tables.read(tokenizer).rollouts] == ["stop", "length"]

    def test_an_end_token_inside_is_not_at_the_end(self, tables, tokenizer):
        row = recorded(1, arca_completion_ids=[15, EOS, 5])
        assert tables.one(row, tokenizer).finish_reason == "length"

    def test_an_empty_completion_is_left_out_and_the_others_keep_their_places(
        self, tables, tokenizer
    ):
        tables.add(1, [recorded(0, arca_completion_ids=[], completion=""), recorded(1)])
        assert [r.id for r in tables.read(tokenizer).rollouts] == ["completions_00001/1"]

    def test_the_sample_reads_whole(self, tokenizer):
        found = read_rollouts(SAMPLE / "completions", tokenizer)
        assert found.duplicates_dropped == 0
        assert all(r.ids_exact for r in found.rollouts)
        assert min(r.step for r in found.rollouts) == 0
        assert max(r.step for r in found.rollouts) == 100
        assert found.source == "TRL completions: completions"
        assert len(found.files) == len(list((SAMPLE / "completions").iterdir()))


class TestWithoutTheRecorder:
    def test_the_text_is_tokenised_again_and_said_to_be(self, tables, tokenizer):
        found = tables.one(trl_row(3), tokenizer)
        assert found.completion_ids == (
            15,
            7,
        )  # no BOS, and no EOS: whether there was one is unknown
        assert found.ids_exact is False

    def test_the_step_is_one_less_than_the_tables(self, tables, tokenizer):
        assert tables.one(trl_row(0, step=3), tokenizer).step == 2
        assert tables.one(trl_row(0, step=1), tokenizer).step == 0
        assert tables.one(trl_row(0, step=0), tokenizer).step == 0

    @pytest.mark.parametrize(
        ("length", "limit", "reason"),
        [
            (2, 48, "stop"),
            (7, 10, "stop"),
            (8, 10, None),
            (10, 10, None),
            (12, 10, None),
            (2, None, None),
            (2, "48", None),
        ],
    )
    def test_it_stopped_only_if_it_is_far_below_the_limit(
        self, tables, tokenizer, length, limit, reason
    ):
        row = trl_row(0, completion="1" * length)
        found = tables.one(row, tokenizer, training_args={"max_completion_length": limit})
        assert found.finish_reason == reason

    def test_a_table_may_record_some_and_not_others(self, tables, tokenizer):
        tables.add(1, [recorded(0), recorded(1, arca_completion_ids=None)])
        assert [r.ids_exact for r in tables.read(tokenizer).rollouts] == [True, False]

    def test_no_tokenizer_is_said_with_what_to_do(self, tables):
        tables.add(1, [trl_row(0)])
        error = tables.refused(r"completions_00001\.parquet: row 0: .* no tokenizer")
        assert "--base" in error.hint

    def test_nor_can_a_prompt_be_had_without_one(self, tables):
        tables.add(1, [recorded(0)])
        tables.refused("the prompt is text, and the run has no tokenizer")


class TestPrompts:
    CHAT = [{"role": "user", "content": "1+2"}]  # noqa: RUF012

    def test_a_chat_goes_through_the_template_with_one_beginning(self, tables, chatty):
        found = tables.one(recorded(0, prompt=self.CHAT), chatty)
        assert found.prompt_ids == (1, 5, 14, 6, 17, 18)  # BOS 1 + 2 ; >
        assert found.prompt_text == "1+2"

    def test_its_completion_is_the_assistants_text(self, tables, chatty):
        row = trl_row(0, prompt=self.CHAT, completion=[{"role": "assistant", "content": "=3"}])
        found = tables.one(row, chatty)
        assert found.completion_text == "=3"
        assert found.completion_ids == (15, 7)

    def test_the_runs_template_arguments_are_used(self, tables, chatty):
        found = tables.one(
            recorded(0, prompt=self.CHAT),
            chatty,
            training_args={"chat_template_kwargs": {"mark": "c"}},
        )
        assert chatty.decode([found.prompt_ids[-1]]) == "c"

    def test_fields_that_only_other_messages_have_do_not_reach_the_template(self, tables, chatty):
        """Parquet gives every message every field, null where it had none."""
        chatty_strict = TEMPLATE.replace(
            "{{ m['content'] }}", "{{ m['content'] }}{% if m['name'] is defined %}?{% endif %}"
        )
        chat = [{"role": "user", "content": "1", "name": None}, {"role": "user", "content": "2"}]
        before, chatty.chat_template = chatty.chat_template, chatty_strict
        try:
            found = tables.one(recorded(0, prompt=chat), chatty)
        finally:
            chatty.chat_template = before
        assert found.prompt_ids == (1, 5, 17, 6, 17, 18)

    def test_a_template_that_fails_is_said(self, tables, tokenizer, chatty):
        tables.add(1, [recorded(0, prompt=self.CHAT)])
        tables.refused("row 0: .*the tokenizer has no chat template", tokenizer)
        before, chatty.chat_template = chatty.chat_template, "{{ raise_exception('not today') }}"
        try:
            tables.refused("row 0: the chat template fails on this prompt: .*not today", chatty)
        finally:
            chatty.chat_template = before

    def test_a_prompt_without_a_token_is_said(self, tables, chatty):
        before, chatty.chat_template = chatty.chat_template, "{% if false %}x{% endif %}"
        tables.add(1, [recorded(0), recorded(1, prompt=self.CHAT)][1:])
        try:
            tables.refused("row 0: the prompt has no token", chatty)
        finally:
            chatty.chat_template = before


class TestBatchesWrittenTwice:
    ROWS = [recorded(n) for n in range(4)]  # noqa: RUF012

    def test_the_second_is_dropped_and_counted(self, tables, tokenizer):
        again = [row | {"step": 4} for row in self.ROWS]
        tables.add(3, self.ROWS)
        tables.add(4, again)
        found = tables.read(tokenizer)
        assert [r.id for r in found.rollouts] == [f"completions_00003/{n}" for n in range(4)]
        assert found.duplicates_dropped == 4
        assert len(found.files) == 2

    @pytest.mark.parametrize(
        "change", [{"prompt": "7+1>"}, {"completion": "=7"}, {"advantage": 0.25}], ids=str
    )
    def test_one_that_differs_is_another_batch(self, tables, tokenizer, change):
        tables.add(3, [trl_row(0), trl_row(1)])
        tables.add(4, [trl_row(0), trl_row(1, **change)])
        found = tables.read(tokenizer)
        assert found.duplicates_dropped == 0
        assert len(found.rollouts) == 4

    def test_tables_are_read_in_step_order_whatever_the_disk_says(self, tables, tokenizer):
        for number in (100_000, 20, 3):
            tables.add(number, [trl_row(number % 7, step=number)])
        assert [r.step for r in tables.read(tokenizer).rollouts] == [2, 19, 99_999]

    def test_one_table_alone_can_be_given(self, tables, tokenizer):
        tables.add(3, self.ROWS)
        one = tables.add(4, [recorded(5)])
        assert len(read_rollouts(one, tokenizer).rollouts) == 1


def trained(step: int, **more: Any) -> dict[str, Any]:
    """An entry of the log, as training writes it."""
    return {"step": step, "learning_rate": 1e-6, "reward": 0.5} | more


def evaluated(step: int) -> dict[str, Any]:
    """One as an evaluation writes it."""
    return {"step": step, "eval_reward": 0.5, "eval_runtime": 1.0}


class TestEvaluations:
    """tests/test_trl.py has the same of real runs."""

    SCHEDULE = {"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 0}  # noqa: RUF012

    def kept(self, tables, numbers: list[int], **run: Any) -> set[int]:
        """Tables whose completions are read; the others must be counted, one row each."""
        for number in numbers:
            rows = [recorded(number, step=number, arca_gen_step=max(0, number - 1))]
            tables.add(number, [{k: v for k, v in row.items() if "gen" not in k} for row in rows])
        samples, notes, _ = samples_of(tables.folder, **run)
        read = {int(s.batch.rpartition("_")[2]) for s in samples}
        assert notes.eval_excluded == len(numbers) - len(read)
        assert set(notes.batches) == read
        return read

    def test_the_log_tells(self, tables):
        log = (trained(1), trained(2), evaluated(2), trained(3, **{"rewards/eval_a/mean": 1.0}))
        assert self.kept(tables, [1, 2, 3], log=log) == {1, 3}

    def test_a_metric_of_training_named_like_an_evaluations_is_of_training(self, tables):
        assert self.kept(tables, [1], log=(trained(1, eval_like=0.5),)) == {1}

    @pytest.mark.parametrize(
        ("arguments", "read"),
        [
            ({}, {1, 3, 5}),
            ({"eval_steps": 3}, {1, 2, 4, 5}),
            ({"eval_delay": 5}, {1, 2, 3, 4, 5}),
            ({"eval_steps": 0.5}, {1, 2, 3, 5, 6}),
            ({"eval_strategy": "no"}, {1, 2, 3, 4, 5, 6, 7}),
            ({"eval_strategy": "epoch"}, {1, 2, 3, 4, 5, 6}),
            ({"eval_steps": None}, {1, 2, 3, 4, 5, 6}),
            ({"eval_steps": "2"}, {1, 2, 3, 4, 5, 6}),
        ],
        ids=str,
    )
    def test_where_no_log_reaches_the_schedule_tells(self, tables, arguments, read):
        run = {"training_args": self.SCHEDULE | arguments, "steps": 7}
        assert self.kept(tables, list(range(1, 8)), **run) == read

    def test_where_the_log_reaches_the_schedule_is_not_asked(self, tables):
        run = {"training_args": self.SCHEDULE, "log": (trained(1), trained(4))}
        assert self.kept(tables, [1, 2, 4, 5, 6], **run) == {1, 2, 4, 5}

    def test_a_table_with_one_row_of_an_evaluation_is_left_out_whole(self, tables):
        tables.add(3, [recorded(0), recorded(1), recorded(2, arca_gen_step=3)])
        tables.add(4, [recorded(3, step=4)])
        samples, notes, _ = samples_of(tables.folder)
        assert [s.batch for s in samples] == ["completions_00004"]
        assert notes.eval_excluded == 3

    def test_so_is_what_repeats_it_under_a_later_step(self, tables):
        rows = [trl_row(0), trl_row(1)]
        tables.add(3, rows)
        tables.add(4, [row | {"step": 4} for row in rows])
        samples, notes, _ = samples_of(tables.folder, log=(evaluated(3), trained(4)))
        assert (samples, notes.eval_excluded, notes.duplicates) == ([], 4, 0)

    def test_a_run_that_left_nothing_else_says_so(self, tables, tokenizer):
        tables.add(3, [trl_row(0)])
        tables.refused(
            r"no rollout in it \(1 left out: sampled by an evaluation\)",
            tokenizer,
            log=(evaluated(3),),
        )


class TestSteps:
    """Against the trainer's own loop: which batch is at hand when a step ends."""

    def sampled_at(self, micro: int, per_batch: int, uses: int, steps: int) -> list[int]:
        done, at_end, batch = 0, [], 0
        for passed in range(steps * micro):
            if passed % (per_batch * uses) == 0:
                batch = done
            if (passed + 1) % micro == 0:
                done += 1
                at_end.append(batch)
        return at_end

    @pytest.mark.parametrize(
        ("micro", "per_batch", "uses"),
        [(1, 1, 1), (1, 1, 3), (4, 4, 1), (2, 8, 1), (2, 2, 2), (2, 3, 1), (4, 6, 2), (3, 1, 1)],
    )
    def test_a_batch_was_sampled_where_the_trainer_first_used_it(self, micro, per_batch, uses):
        arguments = {
            "gradient_accumulation_steps": micro,
            "steps_per_generation": per_batch,
            "num_iterations": uses,
        }
        found = [logged.sampling_step(k, arguments)[0] for k in range(1, 25)]
        assert found == self.sampled_at(micro, per_batch, uses, 24)

    def test_a_run_that_was_resumed_counts_anew_and_the_table_before_tells(self, tables):
        """Resumed after step 3: batches of two steps begin at 3 and 5, not at 2 and 4."""
        for number, prompt in ((3, "1"), (4, "2"), (5, "2"), (6, "3")):
            tables.add(number, [trl_row(0, step=number, prompt=prompt)])
        run = {"training_args": {"num_iterations": 2}}
        assert [s.step for s in samples_of(tables.folder, **run)[0]] == [2, 3, 5]


class TestWhatTheTableDoesNotTell:
    CHAT = [{"role": "user", "content": "1+2"}]  # noqa: RUF012

    def test_an_image_in_the_prompt(self, tables):
        blocks = [{"type": "image", "text": None}, {"type": "text", "text": "1+2"}]
        row = recorded(0, prompt=[{"role": "user", "content": blocks}])
        other = recorded(5, prompt=[{"role": "user", "content": blocks[1:]}])
        tables.add(1, [row, other])
        samples, notes, _ = samples_of(tables.folder)
        assert [s.prompt_text for s in samples] == ["1+2"]
        assert dict(notes.left_out) == {
            "a prompt with more than text in it, which is not replayed": 1
        }

    def test_what_was_written_between_reasoning_and_answer(self, tables):
        said = {"role": "assistant", "content": "3", "reasoning_content": "1 and 2"}
        row = trl_row(0, prompt=self.CHAT, completion=[said])
        tables.add(1, [row])
        samples, notes, _ = samples_of(tables.folder)
        assert not samples
        assert "parsed into reasoning" in next(iter(notes.left_out))

    def test_reasoning_does_not_matter_where_the_recorder_was(self, tables):
        said = {"role": "assistant", "content": "3", "reasoning_content": "1 and 2"}
        tables.add(1, [recorded(0, prompt=self.CHAT, completion=[said])])
        (sample,) = samples_of(tables.folder)[0]
        assert sample.completion == (15, 4, EOS)
        assert sample.completion_text == ""

    def test_tools_that_others_of_the_batch_called_stood_in_every_prompt(self, tables):
        plain = [{"role": "assistant", "content": "=3"}]
        called = [{"role": "assistant", "content": "?"}, {"role": "tool", "content": "3"}, *plain]
        rows = [recorded(n, prompt=self.CHAT, completion=c) for n, c in enumerate((plain, called))]
        tables.add(1, rows)
        samples, notes, _ = samples_of(tables.folder)
        assert [s.guessed_prompt for s in samples] == [True]
        assert list(notes.left_out.values()) == [1]
        tables.add(1, rows[:1])
        assert [s.guessed_prompt for s in samples_of(tables.folder)[0]] == [False]


class TestGroups:
    def sizes(self, tables, tokenizer, prompts: str, **arguments: Any) -> list[int]:
        tables.add(1, [recorded(n, prompt=f"{p}+1>") for n, p in enumerate(prompts)])
        seen = [r.group_id for r in tables.read(tokenizer, training_args=arguments).rollouts]
        return [seen.count(g) for g in dict.fromkeys(seen)]

    def test_rows_of_one_prompt_side_by_side_are_a_group(self, tables, tokenizer):
        assert self.sizes(tables, tokenizer, "1122233") == [2, 3, 2]

    def test_one_prompt_twice_over_is_two_groups_if_the_run_says_so(self, tables, tokenizer):
        assert self.sizes(tables, tokenizer, "111122", num_generations=2) == [2, 2, 2]
        assert self.sizes(tables, tokenizer, "111122") == [4, 2]

    def test_the_same_prompt_further_on_is_another_group(self, tables, tokenizer):
        assert self.sizes(tables, tokenizer, "112211") == [2, 2, 2]

    @pytest.mark.parametrize("size", [4, 0, -2, 2.0, "2", None], ids=repr)
    def test_a_size_that_does_not_fit_is_ignored(self, tables, tokenizer, size):
        assert self.sizes(tables, tokenizer, "111122", num_generations=size) == [4, 2]

    def test_nor_is_one_that_fits_the_table_but_not_its_prompts(self, tables, tokenizer):
        assert self.sizes(tables, tokenizer, "111222", num_generations=2) == [3, 3]

    def test_groups_of_two_tables_are_never_one(self, tables, tokenizer):
        tables.add(1, [recorded(0)])
        tables.add(2, [recorded(0, advantage=0.1)])
        found = tables.read(tokenizer).rollouts
        assert found[0].group_id != found[1].group_id
        assert found[0].cluster == found[1].cluster


class TestRewards:
    def reward(self, tables, tokenizer, run: dict[str, Any], **columns: Any) -> float | None:
        row = {k: v for k, v in recorded(0).items() if k != "exact_match"} | columns
        return tables.one(row, tokenizer, **run).reward

    NAMES = {"reward_columns": ("a", "b")}  # noqa: RUF012

    def test_it_is_the_sum_over_reward_functions(self, tables, tokenizer):
        assert self.reward(tables, tokenizer, self.NAMES, a=0.5, b=0.25) == 0.75

    def test_it_is_weighted_as_the_run_was(self, tables, tokenizer):
        run = self.NAMES | {"training_args": {"reward_weights": [2.0, 10.0]}}
        assert self.reward(tables, tokenizer, run, a=0.5, b=0.25) == 3.5

    @pytest.mark.parametrize("nothing", [None, math.nan], ids=str)
    def test_what_a_function_did_not_score_is_left_out(self, tables, tokenizer, nothing):
        run = self.NAMES | {"training_args": {"reward_weights": [2.0, 10.0]}}
        assert self.reward(tables, tokenizer, run, a=0.5, b=nothing) == 1.0
        assert self.reward(tables, tokenizer, run, a=nothing, b=nothing) is None

    def test_columns_that_are_no_reward_function_are_not_added(self, tables, tokenizer):
        assert self.reward(tables, tokenizer, self.NAMES, a=0.5, b=0.25, length=99.0) == 0.75

    def test_where_no_log_names_them_the_numeric_columns_are_rewards(self, tables, tokenizer):
        assert self.reward(tables, tokenizer, {}, a=0.5, b=0.25, note="x") == 0.75

    @pytest.mark.parametrize("weights", [[2.0], [1.0, 2.0, 3.0], 2.0, None], ids=str)
    def test_weights_of_another_number_are_ignored(self, tables, tokenizer, weights):
        run = self.NAMES | {"training_args": {"reward_weights": weights}}
        assert self.reward(tables, tokenizer, run, a=0.5, b=0.25) == 0.75

    @pytest.mark.parametrize(
        "weights",
        [[None, 1.0], ["a", 1.0], [[1], 1.0], [10**400, 1]],
        ids=["null", "text", "list", "huge"],
    )
    def test_weights_that_are_no_numbers_are_no_bug(self, tables, tokenizer, weights):
        run = self.NAMES | {"training_args": {"reward_weights": weights}}
        assert self.reward(tables, tokenizer, run, a=0.5, b=0.25) == 0.75

    def test_weights_go_with_the_functions_in_the_order_of_training(self, tmp_path, tokenizer):
        """`trainer_state.json` sorts its keys; the table's columns keep the order of training."""
        write_adapter(tmp_path / "checkpoint-3")
        (tmp_path / "trainer_state.json").write_text(
            json.dumps(
                {"log_history": [{"rewards/arca_recorder/mean": 0, "rewards/match/mean": 1}]}
            )
        )
        row = {"step": 3, "prompt": "1+1>", "completion": "=2", "match": 0.5, "arca_recorder": None}
        other = row | {"arca_recorder": 0.25}
        write_parquet(tmp_path / "completions" / "completions_00003.parquet", [row, other])
        found = find_run(tmp_path)
        run = {
            "reward_columns": found.reward_columns,
            "training_args": {"reward_weights": [1.0, 0.0]},
        }
        rewards = [r.reward for r in read_rollouts(found.completions, tokenizer, **run).rollouts]
        assert rewards == [0.5, 0.5]

    def test_an_advantage_that_is_no_number_is_unknown(self, tables, tokenizer):
        assert tables.one(recorded(0, advantage=0.5), tokenizer).advantage == 0.5
        assert tables.one(recorded(0, advantage=math.nan), tokenizer).advantage is None
        row = {k: v for k, v in recorded(0).items() if k != "advantage"}
        assert tables.one(row, tokenizer).advantage is None


class TestAnotherTokenizer:
    def test_it_is_noticed(self, tables, tmp_path):
        shutil.copy(SAMPLE / "tokenizer.json", tmp_path)
        text = (tmp_path / "tokenizer.json").read_text("utf-8")
        vocabulary = json.loads(text)["model"]["vocab"]
        swapped = vocabulary | {"0": vocabulary["9"], "9": vocabulary["0"]}
        other = json.loads(text)
        other["model"]["vocab"] = swapped
        (tmp_path / "tokenizer.json").write_text(json.dumps(other), "utf-8")
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
        tables.add(1, [recorded(n) for n in (0, 9, 10, 19, 1)])
        error = tables.refused("rollout '?completions_00001/0'?: .* do not decode", tokenizer)
        assert "--base" in error.hint

    def test_a_few_completions_that_do_not_decode_are_let_pass(self, tables, tokenizer):
        odd = recorded(1, completion="=?")
        tables.add(1, [recorded(0), odd, recorded(2)])
        assert len(tables.read(tokenizer).rollouts) == 3

    def test_blanks_do_not_count(self, tables, tokenizer):
        row = recorded(0, completion="=0 ", arca_completion_ids=[15, 4, EOS])
        assert tables.one(row, tokenizer).ids_exact

    @pytest.mark.parametrize("ids", [[99, EOS], [-5, EOS], [2**62, EOS]], ids=str)
    def test_ids_that_no_tokenizer_has_are_no_bug(self, tables, tokenizer, ids):
        tables.add(1, [recorded(0, arca_completion_ids=ids)])
        with contextlib.suppress(RolloutError):
            assert tables.read(tokenizer).rollouts[0].completion_ids == tuple(ids)


class TestDamagedTables:
    NAMED = r"completions_00002\.parquet: "

    @pytest.fixture
    def bad(self, tables) -> Path:
        """The second of two tables, to be spoilt."""
        tables.add(1, [recorded(0)])
        return tables.add(2, [recorded(1)])

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"\x00" * 5000], ids=len)
    def test_a_corrupt_one_is_named(self, tables, bad, tokenizer, content):
        bad.write_bytes(content)
        error = tables.refused(self.NAMED + "not a readable parquet file", tokenizer)
        assert "copy again" in error.hint

    @pytest.mark.parametrize("cut", [1, 300])
    def test_a_truncated_one_is_named(self, tables, bad, tokenizer, cut):
        bad.write_bytes(bad.read_bytes()[:-cut])
        tables.refused(self.NAMED + "not a readable parquet file", tokenizer)

    def test_an_empty_one_is_named(self, tables, bad, tokenizer):
        pq.write_table(pq.read_table(bad).slice(0, 0), bad)
        tables.refused(self.NAMED + "no rows in it", tokenizer)

    @pytest.mark.parametrize("column", ["step", "prompt", "completion"])
    def test_one_without_a_column_is_named(self, tables, bad, tokenizer, column):
        pq.write_table(pq.read_table(bad).drop([column]), bad)
        tables.refused(self.NAMED + f"no column {column}: not a TRL table", tokenizer)

    @pytest.mark.parametrize(
        ("column", "says"),
        [
            ("step", "step is not that of row 0"),
            ("prompt", "prompt must be a text or a chat, found NoneType"),
            ("completion", "completion must be a text or a chat, found NoneType"),
        ],
    )
    def test_a_row_without_a_value_is_named(self, tables, tokenizer, column, says):
        tables.add(2, [recorded(0), recorded(1, **{column: None})])
        tables.refused(self.NAMED.removesuffix(" ") + f" row 1: {says}", tokenizer)

    def test_the_group_of_a_bad_row_can_be_dropped_unless_its_prompt_is_bad(
        self, tables, tokenizer
    ):
        rows = [recorded(n) for n in range(6)]
        tables.add(2, [*rows[:3], recorded(3, completion=None), *rows[4:]])
        found = read_rollouts(tables.folder, tokenizer, skip_bad_lines=True)
        assert [r.id.partition("/")[2] for r in found.rollouts] == ["0", "1", "4", "5"]
        assert found.lines_skipped == 2
        tables.add(2, [*rows[:3], recorded(3, prompt=None), *rows[4:]])
        with pytest.raises(RolloutError, match="row 3: prompt"):
            read_rollouts(tables.folder, tokenizer, skip_bad_lines=True)

    @pytest.mark.parametrize(
        "given",
        [
            {"step": "x"},
            {"step": math.nan},
            {"arca_gen_step": -1},
            {"arca_gen_step": True},
            {"step": True},
            {"arca_completion_ids": [True]},
            {"arca_completion_ids": [-1]},
            {"arca_completion_ids": [1.0]},
            {"arca_completion_ids": [2**31]},
            {"arca_gen_step": "x"},
            {"prompt": 5},
            {"prompt": ["a", "b"]},
            {"completion": 5},
            {"arca_completion_ids": ["a"]},
            {"arca_completion_ids": [None]},
            {"arca_completion_ids": 5},
        ],
        ids=str,
    )
    def test_a_column_of_another_kind_is_named(self, tables, tokenizer, given):
        tables.add(2, [trl_row(0, **given)])
        tables.refused(self.NAMED, tokenizer)

    def test_all_are_said_at_once_up_to_twenty(self, tables, tokenizer):
        for number in range(25):
            (tables.folder / f"completions_{number:05d}.parquet").touch()
        error = tables.refused(
            r"(?s)completions_00000.*completions_00019.*\.\.\. and 5 more$", tokenizer
        )
        assert "completions_00020" not in str(error)

    def test_a_table_whose_completions_are_all_empty_holds_no_rollout(self, tables, tokenizer):
        tables.add(1, [trl_row(0, completion="")])
        tables.refused("completions: no rollout in it", tokenizer)

    def test_other_files_in_the_folder_are_left_alone(self, tables, tokenizer):
        tables.add(1, [recorded(0)])
        pq.write_table(pa.table({"x": [1]}), tables.folder / "others.parquet")
        assert len(tables.read(tokenizer).rollouts) == 1


class TestARun:
    def test_its_own_tables_are_read_when_none_are_given(self, tmp_path, tokenizer):
        run = sample_copy(tmp_path, checkpoints=(2,), tables=(3,))
        edit_json(run / "trainer_state.json", logging_steps=1)
        found = find_run(run)
        rollouts = read_rollouts(
            None,
            tokenizer,
            root=found.root,
            training_args=found.training_args,
        ).rollouts
        assert len(rollouts) == 128
        assert {r.step for r in rollouts} == {2}
        assert len({r.group_id for r in rollouts}) == 8
