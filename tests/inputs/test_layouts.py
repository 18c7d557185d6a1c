"""Each framework's layout, built from plain files: names are all that counts here."""

import json
import os
from pathlib import Path

import pytest

from arca_diag.errors import ArcaError
from arca_diag.inputs.runs import find_run, select_checkpoints


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    return root


def adapters(root: Path, *folders: str) -> Path:
    for folder in folders:
        touch(root, f"{folder}/adapter_config.json", f"{folder}/adapter_model.safetensors")
    return root


def found(run) -> list[tuple[str, int | None, str, str]]:
    return [
        (c.name, c.step, c.path.relative_to(run.root).as_posix(), c.layout) for c in run.checkpoints
    ]


def refused(run) -> list[tuple[str, int | None]]:
    return [(r.name, r.step) for r in run.refused]


@pytest.fixture
def run(tmp_path) -> Path:
    return tmp_path / "run"


#: name of the case -> adapter folders in no good order, other files, what is found.
LAID_OUT = {
    "trl": (
        ["checkpoint-20", "checkpoint-3", "checkpoint-3/ref"],
        [],
        [("checkpoint-3", 3, "checkpoint-3", "hf"), ("checkpoint-20", 20, "checkpoint-20", "hf")],
    ),
    "swift default": (
        ["checkpoint-5/default"],
        [],
        [("checkpoint-5", 5, "checkpoint-5/default", "hf")],
    ),
    "a converted PiSSA adapter": (
        ["checkpoint-5", "checkpoint-5/pissa_converted", "checkpoint-5/pissa_init"],
        [],
        [("checkpoint-5", 5, "checkpoint-5/pissa_converted", "hf")],
    ),
    "verl": (
        ["global_step_20/actor/lora_adapter", "global_step_3/actor/lora_adapter"],
        ["global_step_20/critic/lora_adapter/adapter_config.json"],
        [
            ("global_step_3", 3, "global_step_3/actor/lora_adapter", "verl"),
            ("global_step_20", 20, "global_step_20/actor/lora_adapter", "verl"),
        ],
    ),
    "verl merged": (
        ["global_step_3/lora_adapter"],
        ["global_step_3/config.json"],
        [("global_step_3", 3, "global_step_3/lora_adapter", "verl")],
    ),
    "verl merged into the run": (
        ["merged/global_step_3/lora_adapter"],
        ["global_step_3/actor/model_world_size_2_rank_0.pt"],
        [("global_step_3", 3, "merged/global_step_3/lora_adapter", "verl")],
    ),
    "verl megatron": (
        ["global_step_3/actor/model/huggingface/adapter"],
        [],
        [("global_step_3", 3, "global_step_3/actor/model/huggingface/adapter", "verl")],
    ),
    "prime-rl": (
        ["broadcasts/step_3", "broadcasts/step_20"],
        [
            "broadcasts/step_3/STABLE",
            "broadcasts/step_20/STABLE",
            "checkpoints/step_20/trainer/.metadata",
        ],
        [
            ("step_3", 3, "broadcasts/step_3", "prime-rl"),
            ("step_20", 20, "broadcasts/step_20", "prime-rl"),
        ],
    ),
    "prime-rl, adapters saved apart": (
        ["weights/step_3/lora_adapters"],
        ["configs/trainer.toml"],
        [("step_3", 3, "weights/step_3/lora_adapters", "prime-rl")],
    ),
    "openrlhf": (
        ["global_step20_hf", "global_step3_hf"],
        ["_actor/global_step20/zero_pp_rank_0_mp_rank_00_model_states.pt"],
        [
            ("global_step3_hf", 3, "global_step3_hf", "openrlhf"),
            ("global_step20_hf", 20, "global_step20_hf", "openrlhf"),
        ],
    ),
    "nemo-rl": (
        ["step_3/hf_adapter"],
        ["step_3/config.yaml", "step_3/training_info.json", "step_3/policy/weights/x.distcp"],
        [("step_3", 3, "step_3/hf_adapter", "nemo-rl")],
    ),
    "tinker": (
        ["000020", "adapters/000003"],
        ["checkpoints.jsonl"],
        [("000020", 20, "000020", "tinker")],
    ),
    "nemo-rl, adapter by Automodel": (
        ["step_3/policy/weights/model"],
        ["step_3/config.yaml", "step_3/policy/tokenizer/tokenizer.json"],
        [("step_3", 3, "step_3/policy/weights/model", "nemo-rl")],
    ),
    "steps of others": (["step_3"], [], [("step_3", 3, "step_3", "steps")]),
}


class TestLayouts:
    @pytest.mark.parametrize("name", LAID_OUT)
    def test_is_found_in_step_order_by_its_step_folders(self, run, name):
        folders, files, expected = LAID_OUT[name]
        touch(adapters(run, *folders), *files)
        if name == "tinker":
            expected = [("000003", 3, "adapters/000003", "tinker"), *expected]
        got = find_run(run)
        assert found(got) == expected
        assert got.root == run.resolve()
        assert got.named is None
        assert got.refused == ()

    @pytest.mark.parametrize("name", LAID_OUT)
    def test_a_path_to_a_step_or_its_adapter_is_the_run_with_it_named(self, run, name):
        folders, files, _ = LAID_OUT[name]
        touch(adapters(run, *folders), *files)
        # One more of the kind, so that it is no lone one.
        adapters(run, folders[0].replace("3", "7").replace("5", "7"))
        touch(run, *(name.replace("_3", "_7").replace("_20", "_7") for name in files))
        for checkpoint in find_run(run).checkpoints:
            named = find_run(checkpoint.path)
            assert named.named == checkpoint
            assert named.root == run.resolve()

    def test_a_folder_between_the_step_and_its_adapter_is_that_step_too(self, run):
        adapters(run, "global_step_3/actor/lora_adapter", "global_step_20/actor/lora_adapter")
        for path in ("global_step_3", "global_step_3/actor", "global_step_3/actor/lora_adapter"):
            named = find_run(run / path).named
            assert named is not None
            assert named.step == 3

    def test_a_reference_kept_in_a_checkpoint_is_not_that_checkpoint(self, run):
        adapters(run, "checkpoint-3", "checkpoint-3/ref", "checkpoint-20")
        got = find_run(run / "checkpoint-3" / "ref")
        assert found(got) == [("ref", None, ".", "bare")]

    @pytest.mark.parametrize("name", ["ref", "default", "pissa_init", "merged", "ref_adapter"])
    def test_what_is_not_the_policy_is_never_a_step(self, run, name):
        adapters(run, "step_3/policy", f"step_5/{name}", "checkpoint-best", name)
        assert [c.name for c in find_run(run).checkpoints] == ["step_3"]

    def test_two_adapters_equally_near_are_not_chosen_from(self, run):
        adapters(run, "global_step_3/a", "global_step_3/b", "global_step_5/a")
        got = find_run(run)
        assert [c.step for c in got.checkpoints] == [5]
        assert got.refused[0].reason == "several adapters: global_step_3/a, global_step_3/b"

    def test_an_adapter_too_deep_is_not_found(self, run):
        adapters(run, "global_step_3/1/2/3/4", "global_step_5/1/2/3/4/5")
        assert [c.step for c in find_run(run).checkpoints] == [3]

    def test_the_runs_own_adapter_counts_before_a_merged_copy(self, run):
        adapters(run, "global_step_3/actor/lora_adapter", "merged/global_step_3/lora_adapter")
        got = find_run(run)
        assert found(got) == [("global_step_3", 3, "global_step_3/actor/lora_adapter", "verl")]

    def test_a_number_alone_is_no_step_without_tinkers_log(self, run):
        adapters(run, "000020", ".")
        assert found(find_run(run)) == [("run", None, ".", "bare")]

    def test_prime_rl_given_by_its_broadcasts_is_the_same_run(self, run):
        adapters(run, "broadcasts/step_3")
        touch(run, "broadcasts/step_3/STABLE", "configs/orchestrator.toml")
        assert find_run(run / "broadcasts") == find_run(run)
        assert find_run(run / "broadcasts" / "step_3").root == run.resolve()

    def test_broadcasts_copied_alone_are_a_run(self, tmp_path):
        adapters(tmp_path, "broadcasts/step_3")
        touch(tmp_path, "broadcasts/step_3/STABLE")
        got = find_run(tmp_path / "broadcasts")
        assert found(got) == [("step_3", 3, "step_3", "prime-rl")]

    def test_without_their_marker_those_are_refused_too(self, tmp_path):
        adapters(tmp_path, "broadcasts/step_3")
        with pytest.raises(ArcaError, match="no STABLE file"):
            find_run(tmp_path / "broadcasts")

    def test_merged_steps_without_their_run_are_a_run(self, tmp_path):
        adapters(tmp_path, "merged/global_step_3/lora_adapter", "merged/global_step_5/lora_adapter")
        for path in ("merged", "merged/global_step_3"):
            assert find_run(tmp_path / path).root.name == "merged"

    def test_a_merged_adapter_that_lies_elsewhere_is_not_followed(self, tmp_path):
        adapters(tmp_path, "elsewhere")
        (tmp_path / "target").mkdir()
        (tmp_path / "target" / "lora_adapter").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ArcaError, match="no LoRA adapter here"):
            find_run(tmp_path / "target")

    def test_a_broadcast_without_its_marker_is_refused(self, run):
        adapters(run, "broadcasts/step_3", "broadcasts/step_5")
        touch(run, "broadcasts/step_3/STABLE")
        got = find_run(run)
        assert [c.step for c in got.checkpoints] == [3]
        assert "no STABLE file" in got.refused[0].reason

    def test_the_only_start_of_an_ms_swift_training_is_the_run(self, run):
        adapters(run, "v0-20260101-120000/checkpoint-5", "v0-20260101-120000/checkpoint-10")
        touch(run, "v1-20260102-120000/args.json")  # no checkpoint yet
        got = find_run(run)
        assert got.root.name == "v0-20260101-120000"
        assert got == find_run(got.root)
        assert find_run(got.root / "checkpoint-5").root == got.root

    def test_several_starts_are_not_chosen_from(self, run):
        adapters(run, "v2-x/checkpoint-5", "v10-x/checkpoint-5")
        with pytest.raises(ArcaError, match="several runs in one folder: v2-x, v10-x") as caught:
            find_run(run)
        assert caught.value.hint.endswith("v10-x")

    def test_the_adapter_that_llama_factory_converted_counts_before_its_pissa_original(self, run):
        adapters(run, ".", "pissa_init", "pissa_backup", "pissa_converted")
        assert found(find_run(run)) == [("run", None, "pissa_converted", "bare")]
        assert find_run(run / "pissa_converted").checkpoints[0].name == "run"
        adapters(run, "checkpoint-5")
        assert found(find_run(run)) == [("checkpoint-5", 5, "checkpoint-5", "hf")]

    def test_a_step_without_adapter_or_shards_is_no_checkpoint(self, run):
        touch(adapters(run, "step_5/hf_adapter"), "step_5/training_info.json")
        touch(run, "step_10/training_info.json", "step_10/policy/weights/model.safetensors")
        got = find_run(run)
        assert [c.step for c in got.checkpoints] == [5]
        assert got.refused == ()

    def test_the_target_of_verls_merger_is_a_bare_adapter(self, tmp_path):
        adapters(tmp_path, "target/lora_adapter")
        touch(tmp_path, "target/config.json")
        got = find_run(tmp_path / "target")
        assert found(got) == [("target", None, "lora_adapter", "verl")]
        assert got.named == got.checkpoints[0]
        assert got.framework == "verl"
        assert find_run(tmp_path / "target" / "lora_adapter").checkpoints[0].name == "target"

    def test_a_lone_step_elsewhere_keeps_its_name_and_step(self, tmp_path):
        adapters(tmp_path, "downloads/global_step_3/actor/lora_adapter")
        got = find_run(tmp_path / "downloads" / "global_step_3")
        assert got.root.name == "global_step_3"
        assert found(got) == [("global_step_3", 3, "actor/lora_adapter", "verl")]

    def test_a_repository_with_checkpoints_in_it_is_not_the_run(self, run):
        adapters(run, "checkpoints/checkpoint-3", "checkpoints/checkpoint-5")
        touch(run, "configs/a.toml")
        assert find_run(run / "checkpoints").root.name == "checkpoints"


#: name of the case -> files, the step folder, parts of the reason and of the command.
SHARDED = {
    "fsdp": (
        ["checkpoint-10/pytorch_model_fsdp_0/.metadata"],
        "checkpoint-10",
        "FSDP shards",
        "accelerate merge-weights checkpoint-10/pytorch_model_fsdp_0 checkpoint-10",
    ),
    "zero": (
        ["checkpoint-10/global_step10/zero_pp_rank_0_mp_rank_00_optim_states.pt"],
        "checkpoint-10",
        r"DeepSpeed ZeRO shards \(global_step10\)",
        "python -m deepspeed.utils.zero_to_fp32 checkpoint-10 merged/checkpoint-10 "
        "--tag global_step10",
    ),
    "plain deepspeed": (
        ["global_step10/mp_rank_00_model_states.pt"],
        "global_step10",
        "DeepSpeed ZeRO shards",
        "python -m deepspeed.utils.zero_to_fp32 . merged/checkpoint-10 --tag global_step10",
    ),
    "verl": (
        ["global_step_10/actor/model_world_size_2_rank_0.pt"],
        "global_step_10",
        "verl's fsdp shards",
        "python -m verl.model_merger merge --backend fsdp --local_dir global_step_10/actor "
        "--target_dir merged/global_step_10",
    ),
    "verl megatron": (
        ["global_step_10/actor/dist_ckpt/x"],
        "global_step_10",
        "verl's megatron shards",
        "--backend megatron --local_dir global_step_10/actor",
    ),
    "openrlhf": (
        ["_actor/global_step10/zero_pp_rank_0_mp_rank_00_model_states.pt"],
        "_actor/global_step10",
        "OpenRLHF's DeepSpeed state",
        "zero_to_fp32 _actor merged/global_step10_hf --tag global_step10",
    ),
    "prime-rl": (
        ["checkpoints/step_10/trainer/.metadata"],
        "checkpoints/step_10",
        "prime-rl's sharded training state",
        "format_utils dcp_to_torch checkpoints/step_10/trainer state.pt, then save the tensors in "
        "it that have lora_ in their names as "
        "weights/step_10/lora_adapters/adapter_model.safetensors",
    ),
    "nemo-rl": (
        ["step_10/policy/weights/__0_0.distcp", "step_10/config.yaml"],
        "step_10",
        "distributed checkpoint",
        "format_utils dcp_to_torch step_10/policy/weights state.pt, then save the tensors in it "
        "that have lora_ in their names as step_10/hf_adapter/adapter_model.safetensors",
    ),
    "nemo-rl, newer": (
        ["step_10/policy/weights/model/__0_0.distcp", "step_10/training_info.json"],
        "step_10",
        "distributed checkpoint",
        "dcp_to_torch step_10/policy/weights/model state.pt",
    ),
    "nemo-rl megatron": (
        ["step_10/policy/weights/iter_0000000/x.distcp"],
        "step_10",
        "Megatron checkpoint",
        "--adapter-ckpt step_10/policy/weights/iter_0000000",
    ),
}


class TestShardedStates:
    @pytest.mark.parametrize("name", SHARDED)
    def test_nothing_else_is_an_error_with_the_command_that_mends_it(self, run, name):
        files, folder, reason, command = SHARDED[name]
        touch(run, *files)
        for path in (run, run / folder):
            with pytest.raises(ArcaError, match=reason) as caught:
                find_run(path)
            assert command in caught.value.hint
            assert str(run.resolve()) in caught.value.hint

    @pytest.mark.parametrize(
        ("name", "usable"),
        [
            ("fsdp", "checkpoint-5"),
            ("zero", "checkpoint-5"),
            ("verl", "global_step_5/actor/lora_adapter"),
            ("openrlhf", "global_step5_hf"),
            ("prime-rl", "broadcasts/step_5"),
            ("nemo-rl", "step_5/policy"),
        ],
    )
    def test_beside_a_usable_one_it_stands_apart(self, run, name, usable):
        touch(adapters(run, usable), *SHARDED[name][0])
        if name == "prime-rl":
            touch(run, f"{usable}/STABLE")
        got = find_run(run)
        assert [c.step for c in got.checkpoints] == [5]
        assert refused(got) == [(Path(SHARDED[name][1]).name, 10)]
        with pytest.raises(ArcaError, match=SHARDED[name][2]):
            select_checkpoints(got, "10")

    def test_a_gathered_adapter_beside_sharded_checkpoints_is_used(self, run):
        touch(adapters(run, "."), *SHARDED["fsdp"][0])
        got = find_run(run)
        assert found(got) == [("run", None, ".", "bare")]
        assert refused(got) == [("checkpoint-10", 10)]

    def test_a_command_cannot_be_smuggled_in_by_a_name(self, run):
        evil = "iter_0; rm -rf x"
        touch(run, f"step_10/policy/weights/{evil}/x", "step_10/training_info.json")
        with pytest.raises(ArcaError) as caught:
            find_run(run)
        assert "rm -rf" not in caught.value.hint

    def test_tinkers_checkpoints_are_on_its_servers(self, run):
        rows = [
            {"name": "000010", "batch": 10, "sampler_path": "tinker://run-1/sampler_weights/10"},
            {"name": "final", "sampler_path": "tinker://run-1/sampler_weights/final"},
            {"name": "x'; evil", "batch": 11, "sampler_path": "tinker://run-1/x"},
            {"name": "y", "batch": 12, "sampler_path": "tinker://run-1/x'); evil("},
            {"name": 5, "sampler_path": None},
            [],
        ]
        lines = "\n".join([*map(json.dumps, rows), "{", "[" * 100_000])
        touch(run, "config.json")
        (run / "checkpoints.jsonl").write_text(lines)
        (run / "config.json").write_text('{"model_name": "Qwen/Qwen3-8B"}')
        with pytest.raises(ArcaError, match="lies on Tinker's servers") as caught:
            find_run(run)
        assert "base_model='Qwen/Qwen3-8B'" in caught.value.hint
        assert "tinker://run-1/sampler_weights/10" in caught.value.hint
        adapters(run, "adapters/000010")
        got = find_run(run)
        assert found(got) == [("000010", 10, "adapters/000010", "tinker")]
        assert refused(got) == [("final", None)]
        assert got.framework == "tinker"


class TestHostileFolders:
    @pytest.mark.parametrize(
        "name",
        ["checkpoint-٣", "checkpoint-³", "checkpoint--3", "checkpoint-9223372036854775808"],
    )
    def test_what_is_no_number_of_steps_is_no_checkpoint(self, run, name):
        adapters(run, name, "checkpoint-9223372036854775807")
        assert [c.step for c in find_run(run).checkpoints] == [2**63 - 1]

    def test_two_folders_of_one_step_are_an_error_that_names_both(self, run):
        adapters(run, "checkpoint-2", "checkpoint-02")
        with pytest.raises(ArcaError, match="checkpoint-02 and checkpoint-2 are both step 2"):
            find_run(run)

    @pytest.mark.parametrize("link", ["checkpoint-5", "global_step_5/actor"])
    def test_a_link_out_of_the_run_is_refused(self, run, tmp_path, link):
        adapters(tmp_path / "elsewhere", ".", "lora_adapter")
        other = link.replace("5", "3")
        adapters(run, other if other == "checkpoint-3" else f"{other}/lora_adapter")
        (run / link).parent.mkdir(parents=True, exist_ok=True)
        (run / link).symlink_to(tmp_path / "elsewhere")
        got = find_run(run)
        assert [c.step for c in got.checkpoints] == [3]
        assert refused(got) == ([("checkpoint-5", 5)] if link == "checkpoint-5" else [])

    def test_what_a_link_out_of_the_run_leads_to_is_not_looked_at(self, run, tmp_path):
        touch(tmp_path / "shards", "pytorch_model_fsdp_0/x")
        adapters(tmp_path / "elsewhere", "default")
        adapters(run, "checkpoint-3")
        (run / "checkpoint-5").symlink_to(tmp_path / "shards")
        (run / "checkpoint-7").mkdir()
        (run / "checkpoint-7" / "default").symlink_to(tmp_path / "elsewhere" / "default")
        got = find_run(run)
        assert refused(got) == [("checkpoint-5", 5), ("checkpoint-7", 7)]
        assert all("leads out of the run" in r.reason for r in got.refused)

    def test_a_folder_of_steps_that_leads_out_is_not_listed(self, run, tmp_path):
        adapters(tmp_path / "elsewhere", "step_3")
        touch(tmp_path / "elsewhere", "step_3/STABLE")
        run.mkdir()
        (run / "broadcasts").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ArcaError, match=r"\(broadcasts\).*leads out of the run"):
            find_run(run)

    def test_a_link_within_the_run_is_followed(self, run):
        adapters(run, "kept/a", "checkpoint-3")
        (run / "checkpoint-5").symlink_to(run / "kept" / "a")
        assert [c.step for c in find_run(run).checkpoints] == [3, 5]

    def test_links_in_a_circle_are_no_checkpoint(self, run):
        adapters(run, "checkpoint-3", "global_step_3")
        (run / "checkpoint-5").symlink_to(run / "checkpoint-5")
        (run / "global_step_3" / "loop").symlink_to(run)
        assert [c.step for c in find_run(run).checkpoints] == [3]

    def test_a_folder_with_too_many_entries_is_refused(self, run, monkeypatch):
        monkeypatch.setattr("arca_diag.inputs.files._MAX_ENTRIES", 3)
        adapters(run, "checkpoint-1", "checkpoint-2", "checkpoint-3")
        assert len(find_run(run).checkpoints) == 3
        touch(run, "one_more")
        with pytest.raises(ArcaError, match="more than 3 entries"):
            find_run(run)

    def test_a_step_with_too_many_folders_is_left_alone(self, run, monkeypatch):
        monkeypatch.setattr("arca_diag.inputs.looks._MAX_FOLDERS", 3)
        adapters(run, "global_step_3/a/b", "global_step_5/a/b")
        for n in range(3):
            (run / "global_step_5" / str(n)).mkdir()
        assert [c.step for c in find_run(run).checkpoints] == [3]

    def test_a_folder_that_may_not_be_read_is_an_error(self, run, monkeypatch):
        adapters(run, "checkpoint-3")

        def locked(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "scandir", locked)
        with pytest.raises(ArcaError, match="run: cannot be read: Permission denied"):
            find_run(run)
