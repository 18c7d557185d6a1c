"""A whole run of every trainer of the README's table: its layout, its completions and a model.

All are made of the same adapters, prompts and completions, those of the tiny sample, as each
trainer would have left them; so a scan of each must give what a scan of the sample gives. What
trainers log of single tokens is given by a plain forward of transformers and PEFT.
"""

import functools
import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants as hub
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from arca_diag.cli import app
from arca_diag.config import resolve
from arca_diag.inputs.gather import gather
from arca_diag.inputs.runs import find_run
from arca_diag.inspected import Inspection
from arca_diag.inspection import inspect_run
from arca_diag.pipeline import diagnose
from arca_diag.results import Report
from tests.conftest import ROOT, UNRENDERED
from tests.inputs import (
    EOS,
    SAMPLE,
    edit_json,
    sample_copy,
    write_jsonl,
    write_parquet,
    write_torch_pickle,
)
from tests.inputs.test_layouts import touch
from tests.inputs.test_rollouts_ms_swift import batch
from tests.inputs.test_rollouts_nemo_rl import row as nemo_row
from tests.inputs.test_rollouts_open_instruct import row as open_instruct_row
from tests.inputs.test_rollouts_prime_rl import export
from tests.inputs.test_rollouts_prime_rl import row as prime_row
from tests.inputs.test_rollouts_tinker import capture, request
from tests.inputs.test_rollouts_verifiers import episode, said, told, traces
from tests.inputs.test_rollouts_verifiers_results import row as results_row
from tests.inputs.test_rollouts_verl import line
from tests.test_trl_scans import PlainModel

#: Optimizer steps done at the checkpoints: each sampled what the next step trained on.
STEPS = (2, 20, 100)
#: How far the log-probabilities that a checkpoint's trainer logged are off, and what that is.
SHIFTS = {2: (0.2, "fail"), 20: (0.0, "pass"), 100: (0.05, "warn")}

BASE = "acme/tiny-addition"  # in the hub's cache
UNSLOTH = "unsloth/tiny-addition"


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One completion of the sample, by the policy that had done `step` steps."""

    step: int
    group: int
    prompt: str
    prompt_ids: tuple[int, ...]
    text: str
    ids: tuple[int, ...]
    reward: float
    advantage: float
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]

    @property
    def shifted(self) -> list[float]:
        """What the trainer logs of its tokens."""
        return [value + SHIFTS[self.step][0] for value in self.logprobs]


@functools.cache
def completions() -> tuple[Completion, ...]:
    """Two prompts of each step, and the first of their answers."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(SAMPLE / "base")
    found = []
    for step in STEPS:
        policy = PlainModel(str(SAMPLE / "base"), SAMPLE / f"checkpoint-{step}")
        table = pd.read_parquet(SAMPLE / "completions" / f"completions_{step + 1:05}.parquet")
        for number, prompt in enumerate(table["prompt"].unique()[:2]):
            rows = table[table["prompt"] == prompt].head(4)
            for _, row in rows.iterrows():
                asked, ids = tokenizer(prompt)["input_ids"], row["arca_completion_ids"].tolist()
                logp = policy(asked, ids)[0].log_softmax(-1)
                found.append(
                    Completion(
                        step=step,
                        group=number,
                        prompt=prompt,
                        prompt_ids=tuple(asked),
                        text=row["completion"],
                        ids=tuple(ids),
                        reward=row["exact_match"],
                        advantage=row["exact_match"] - rows["exact_match"].mean(),
                        logprobs=tuple(logp.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist()),
                        entropies=tuple((-(logp.exp() * logp).sum(-1)).tolist()),
                    )
                )
    return tuple(found)


def of(step: int) -> list[Completion]:
    return [c for c in completions() if c.step == step]


# What all trainers have in common.


def adapter(folder: Path, step: int, *, drop: str = "", **config: Any) -> Path:
    """The sample's adapter of a step; `drop` is taken from the front of its keys."""
    folder.mkdir(parents=True)
    tensors = load_file(SAMPLE / f"checkpoint-{step}" / "adapter_model.safetensors")
    save_file(
        {key.removeprefix(drop): value for key, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    shutil.copy(SAMPLE / f"checkpoint-{step}" / "adapter_config.json", folder)
    edit_json(folder / "adapter_config.json", **({"base_model_name_or_path": BASE} | config))
    return folder


def by_hand(**config: Any) -> dict[str, Any]:
    """A configuration of a few keys, as trainers write that do not leave it to PEFT."""
    written = json.loads((SAMPLE / "checkpoint-20" / "adapter_config.json").read_bytes())
    kept = ("peft_type", "task_type", "r", "lora_alpha", "lora_dropout", "bias", "target_modules")
    return dict.fromkeys(written) | {key: written[key] for key in kept} | config


def tokenizer_into(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SAMPLE / name, folder)


def arguments(folder: Path, **given: Any) -> None:
    """training_args.bin, as TRL and its kin leave it."""
    plain = {"temperature": 1.0, "beta": 0.0, "num_generations": 4, "max_completion_length": 48}
    write_torch_pickle(folder / "training_args.bin", SimpleNamespace(**(plain | given)))


def state(folder: Path, step: int) -> None:
    """trainer_state.json with the log until a step, its means as they were."""
    log = []
    for done in (s for s in STEPS if s < step):
        entropies = [h for c in of(done) for h in c.entropies]
        log.append(
            {
                "step": done + 1,
                "entropy": sum(entropies) / len(entropies),
                "learning_rate": 1e-4,
                "rewards/exact_match/mean": sum(c.reward for c in of(done)) / len(of(done)),
            }
        )
    content = {"global_step": step, "max_steps": 101, "logging_steps": 1, "log_history": log}
    (folder / "trainer_state.json").write_text(json.dumps(content))


def hf_run(run: Path, *, recorder: bool, args: Mapping[str, Any], **config: Any) -> Path:
    """What HF Trainer and TRL leave: checkpoints, states, arguments, tokenizer, tables."""
    for step in STEPS:
        folder = adapter(run / f"checkpoint-{step}", step, **config)
        tokenizer_into(folder)
        state(folder, step)
        arguments(folder, **args)
        rows = []
        for c in of(step):
            ids = {"arca_completion_ids": list(c.ids), "arca_gen_step": step} if recorder else {}
            said = {"prompt": c.prompt, "completion": c.text, "exact_match": c.reward}
            rows.append({"step": step + 1} | said | ids | {"advantage": c.advantage})
        write_parquet(run / "completions" / f"completions_{step + 1:05}.parquet", rows)
    state(run, 101)
    return run


# The trainers, in the order of the README's table. Each gives the options of a scan.


def trl(home: Path) -> dict[str, Any]:
    run = hf_run(home / "run", recorder=False, args={})
    (run / "README.md").write_text("### Framework versions\n\n- TRL: 1.16.0\n- PEFT: 0.21.2\n")
    return {"run": run}


def unsloth(home: Path) -> dict[str, Any]:
    mark = {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}
    base = f"{UNSLOTH}-unsloth-bnb-4bit"
    run = hf_run(
        home / "run", recorder=True, args={}, auto_mapping=mark, base_model_name_or_path=base
    )
    return {"run": run}


def axolotl(home: Path) -> dict[str, Any]:
    run = hf_run(home / "run", recorder=False, args={"beta": 0.04})
    card = "<details><summary>See axolotl config</summary>\n\naxolotl version: `0.19.0`\n```yaml"
    (run / "README.md").write_text(card)
    shutil.copytree(SAMPLE / "base", run / "merged")
    for step in STEPS:  # it hands TRL a fresh adapter, of which that keeps a copy
        ref = adapter(run / f"checkpoint-{step}" / "ref", 2) / "adapter_model.safetensors"
        fresh = {k: v * (0 if "lora_B" in k else 1) for k, v in load_file(ref).items()}
        save_file(fresh, ref)
    return {"run": run}


def verl_rollouts(folder: Path) -> None:
    folder.mkdir(parents=True)
    for step in STEPS:
        lines = [
            line(input=c.prompt, output=c.text, score=c.reward, step=step + 1)
            | {"uid": f"p{c.group}_{n}_0"}
            for n, c in enumerate(of(step))
        ]
        write_jsonl(folder / f"{step + 1}.jsonl", lines)


def verl_old(home: Path) -> dict[str, Any]:
    run = home / "checkpoints" / "grpo" / "tiny"
    for step in STEPS:
        actor = run / f"global_step_{step}" / "actor"
        adapter(actor / "lora_adapter", step)
        touch(actor, "model_world_size_1_rank_0.pt", "fsdp_config.json")
        tokenizer_into(actor / "huggingface")
    touch(run, "latest_checkpointed_iteration.txt")
    verl_rollouts(run / "rollout_data")
    return {"run": run}


def verl_merged(home: Path, alpha: int = 8) -> dict[str, Any]:
    """What its merger makes of newer checkpoints; without lora_train_meta.json alpha is 0."""
    run = home / "checkpoints" / "grpo" / "tiny"
    for step in STEPS:
        touch(run / f"global_step_{step}" / "actor", "model_world_size_1_rank_0.pt")
        merged = run / "merged" / f"global_step_{step}"
        adapter(merged / "lora_adapter", step, **by_hand(lora_alpha=alpha))
        shutil.copytree(SAMPLE / "base", merged, dirs_exist_ok=True)
    verl_rollouts(home / "rollout_data")
    return {"run": run, "rollouts": home / "rollout_data", "base": BASE}


def verl_megatron(home: Path) -> dict[str, Any]:
    run = home / "checkpoints" / "grpo" / "tiny"
    for step in STEPS:
        model = run / f"global_step_{step}" / "actor" / "model"
        adapter(model / "huggingface" / "adapter", step)
        touch(model.parent, "dist_ckpt/x.distcp")
    verl_rollouts(run / "rollout_data")
    return {"run": run}


def prime_broadcasts(run: Path) -> None:
    for step in STEPS:
        where, config = run / "broadcasts" / f"step_{step}", by_hand(base_model_name_or_path=BASE)
        touch(adapter(where, step, drop="base_model.model.", **config), "STABLE")
    touch(run, "checkpoints/step_100/trainer/.metadata")
    (run / "configs").mkdir()
    (run / "configs" / "orchestrator.toml").write_text(
        "max_steps = 101\ngroup_size = 4\n[train.sampling]\ntemperature = 1.0\n"
    )


def prime_rl(home: Path, first: int) -> dict[str, Any]:
    """Its trainer's steps count from `first`: step N trains a policy that has done N - `first`."""

    def exported(c: Completion) -> dict[str, Any]:
        before, ids = [0.0] * len(c.prompt_ids), [*c.prompt_ids, *c.ids]
        return prime_row(
            step=c.step + first,
            token_ids=ids,
            position_ids=list(range(len(ids))),
            loss_mask=[False] * len(before) + [True] * len(c.ids),
            advantages=before + [c.advantage] * len(c.ids),
            inference_logprobs=before + list(c.logprobs),
            trainer_logprobs=before + c.shifted,
            entropy=before + list(c.entropies),
        )

    prime_broadcasts(home / "run")
    whole = {step + first: [exported(c) for c in of(step)] for step in STEPS}
    export(home / "run", {first: []} | whole)
    return {"run": home / "run"}


def prime_rl_traces(home: Path) -> dict[str, Any]:
    prime_broadcasts(home / "run")
    for step in STEPS:
        episodes = []
        for c in of(step):
            *asked, last = c.prompt_ids
            answer = said(0, last, *c.ids, credit=c.advantage)
            answer["logprobs"] = [round(value, 4) for value in c.shifted]
            work = {"type": "train", "step": step + 1, "policy": {"start": step, "end": step}}
            group = {"id": f"g{step}-{c.group}"}
            episodes.append(episode(told(None, *asked), answer, group=group, run={"work": work}))
        traces(home / "run", f"step_{step + 1}/train/effective", *episodes)
    return {"run": home / "run"}


def openrlhf(home: Path) -> dict[str, Any]:
    run = home / "ckpt"
    for step in STEPS:
        folder = adapter(run / f"global_step{step}_hf", step)
        shutil.copy(SAMPLE / "base" / "config.json", folder)
        tokenizer_into(folder)
        touch(run, f"_actor/global_step{step}/zero_pp_rank_0_mp_rank_00_model_states.pt")
    # ZeRO-3 and tensor parallelism: a pickle in the place of the tensors.
    left = adapter(run / "global_step60_hf", 60)
    (left / "adapter_model.safetensors").rename(left / "adapter_model.bin")
    return {"run": run, "rollouts": canonical(home / "canonical.jsonl")}


def ms_swift(home: Path) -> dict[str, Any]:
    run = home / "output" / "tiny" / "v0-20260101-120000"
    args = {"swift_version": "4.6.0", "model": BASE, "temperature": 1.0, "num_generations": 4}
    for step in STEPS:
        folder = adapter(run / f"checkpoint-{step}", step)
        touch(folder, "additional_config.json")
        (folder / "args.json").write_text(json.dumps(args | {"beta": 0.04}))
        state(folder, step)
    state(run / "checkpoint-100", 101)
    lines = []
    for step in STEPS:
        same, columns = of(step), {"MathAccuracy": [c.reward for c in of(step)]}
        columns |= {"advantages": [c.advantage for c in same]}
        columns |= dict.fromkeys(("Format", "solution", "difficulty", "entropy"), [0.0] * len(same))
        lines.append(
            batch(
                step=[str(step + 1)] * len(same),
                prompt=[f"<bos>{c.prompt}" for c in same],
                completion=[c.text for c in same],
                **columns,
            )
        )
    write_jsonl(run / "completions.jsonl", lines)
    return {"run": run.parent}


def nemo_rl(home: Path) -> dict[str, Any]:
    run, logs = home / "results" / "grpo", home / "logs" / "exp_001"
    logs.mkdir(parents=True)
    for step in STEPS:
        folder = run / f"step_{step}"
        adapter(folder / "hf_adapter", step)
        touch(folder, "training_info.json", "policy/weights/iter_0000000/x.distcp")
        tokenizer_into(folder / "policy" / "tokenizer")
        (folder / "config.yaml").write_text(
            "policy:\n  model_name: acme/tiny-addition\n  generation: {temperature: 1.0}\n"
            "grpo: {num_generations_per_prompt: 4, max_num_steps: 101}\n"
            "loss_fn: {reference_policy_kl_penalty: 0.01}\n"
        )
        same, rows = of(step), []
        longest = max(len(c.prompt_ids) + len(c.ids) for c in same)
        for number, c in enumerate(same):
            spare = [0] * (longest - len(c.prompt_ids) - len(c.ids))
            before = [0] * len(c.prompt_ids)
            rows.append(
                nemo_row(
                    number,
                    content=c.text,
                    rewards=c.reward,
                    input_lengths=longest - len(spare),
                    token_ids=[*c.prompt_ids, *c.ids, *spare],
                    token_loss_mask=before + [1] * len(c.ids) + spare,
                    advantages=[c.advantage] * longest,
                    generation_logprobs=before + list(c.logprobs) + spare,
                    prev_logprobs=before + c.shifted + spare,
                )
            )
        write_jsonl(logs / f"train_data_step{step + 1}.jsonl", rows)
    return {"run": run, "rollouts": home / "logs"}


def open_instruct(home: Path) -> dict[str, Any]:
    run = home / "tiny_checkpoints"
    for step in STEPS:
        folder = adapter(run / f"step_{step}", step)
        (folder / "adapter_model.bin").write_bytes(b"a pickle")  # ZeRO-3 writes both
        tokenizer_into(folder)
    rows = [
        open_instruct_row(
            step=c.step,
            sample_idx=n,
            prompt_idx=c.group,
            prompt_tokens=list(c.prompt_ids),
            response_tokens=list(c.ids),
            reward=c.reward,
            advantage=c.advantage,
            finish_reason="stop" if c.ids[-1] == EOS else "length",
            logprobs=c.shifted,
        )
        for n, c in enumerate(completions())
    ]
    folder = home / "rollouts"
    folder.mkdir()
    write_jsonl(folder / "tiny_rollouts_000000.jsonl", rows)
    write_jsonl(folder / "tiny_metadata.jsonl", [{"run_name": "tiny"}])
    return {"run": run, "rollouts": folder}


def llama_factory(home: Path) -> dict[str, Any]:
    """PPO from PiSSA, converted to a plain LoRA when it was saved; completions from elsewhere."""
    run = home / "saves" / "tiny"
    for step in STEPS:
        folder = adapter(run / f"checkpoint-{step}", 60, init_lora_weights="pissa")
        adapter(folder / "pissa_init", 2, init_lora_weights="pissa")
        adapter(folder / "pissa_converted", step)
        touch(folder, "value_head.safetensors")
        tokenizer_into(folder)
    (run / "trainer_log.jsonl").write_text('{"current_steps": 100, "total_steps": 101}\n')
    (run / "training_args.yaml").write_text("stage: ppo\nfinetuning_type: lora\n")
    table = home / "answers.csv"
    pd.DataFrame([{"question": c.prompt, "answer": c.text} for c in completions()]).to_csv(table)
    return {"run": run, "rollouts": table, "columns": "prompt=question,completion=answer"}


def tinker(home: Path) -> dict[str, Any]:
    """As its exporter writes it: ranks and alphas by pattern."""
    run, targets = home / "log", by_hand()["target_modules"]
    run.mkdir()
    rows = []
    for step in STEPS:
        name = f"{step:06d}"
        patterns = {"rank_pattern": dict.fromkeys(targets, 4)}
        patterns |= {"alpha_pattern": dict.fromkeys(targets, 8)}
        adapter(run / "adapters" / name, step, r=2, lora_alpha=32, **patterns)
        remote = f"tinker://run-1/sampler_weights/{name}"
        rows.append({"name": name, "batch": step, "sampler_path": remote})
    write_jsonl(run / "checkpoints.jsonl", rows)
    (run / "config.json").write_text(json.dumps({"model_name": BASE}))
    capture(
        run,
        *(
            request(
                step,
                prompt_tokens=list(same[0].prompt_ids),
                samples=[
                    {"tokens": list(c.ids), "logprobs": c.shifted, "stop_reason": "stop"}
                    for c in same
                ],
            )
            for step in STEPS
            for same in ([c for c in of(step) if c.group == n] for n in (0, 1))
        ),
    )
    return {"run": run}


def verifiers(home: Path) -> dict[str, Any]:
    """An evaluation of one adapter, which belongs to no run."""
    rows = [
        results_row(
            example_id=10 * c.step + c.group,
            prompt=c.prompt,
            completion=c.text,
            reward=c.reward,
        )
        for c in completions()
    ]
    folder = home / "outputs" / "evals" / "addition--tiny" / "0f"
    folder.mkdir(parents=True)
    write_jsonl(folder / "results.jsonl", rows)
    return {"run": adapter(home / "tiny-lora", 20), "rollouts": folder}


def canonical(path: Path) -> Path:
    return write_jsonl(
        path,
        (
            {
                "id": f"r{n}",
                "step": c.step,
                "group_id": f"{c.step}/{c.group}",
                "prompt_ids": c.prompt_ids,
                "completion_ids": c.ids,
                "reward": c.reward,
                "advantage": c.advantage,
            }
            for n, c in enumerate(completions())
        ),
    )


def bare(home: Path) -> dict[str, Any]:
    return {
        "run": adapter(home / "tiny-lora", 20),
        "rollouts": canonical(home / "canonical.jsonl"),
    }


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is found in a run.

    Attributes:
        row: The row of the README's table.
        build: Writes the run into an empty folder.
        framework: As it is recognised; "" stands for its name in lower case.
        names: Of the checkpoints; {} stands for the step.
        reader: The reader of its completions.
        exact: Whether their ids are those that were sampled.
        findings: Beside notes.
        reference: The kind of the reference.
        timed: Whether the completions have steps.
        tokens: Whether log-probabilities of single tokens were logged; else, whether means were.
    """

    row: str
    build: Callable[[Path], dict[str, Any]]
    framework: str = ""
    names: str = "checkpoint-{}"
    reader: str
    exact: bool = True
    findings: frozenset[str] = frozenset()
    reference: str = "adapter-off"
    timed: bool = True
    tokens: bool = False
    means: bool = False


TEXT, UNKNOWN = "ids-retokenised", "temperature-assumed"
GUESSED = "prompts-guessed"

RUNS = {
    "trl": Expected(
        row="TRL, HF Trainer", build=trl, framework="trl",
        reader="TRL completions", exact=False, findings=frozenset({TEXT}), means=True,
    ),
    "unsloth": Expected(
        row="Unsloth", build=unsloth,
        reader="TRL completions", findings=frozenset({"base-precision-mismatch"}), means=True,
    ),
    "axolotl": Expected(
        row="axolotl", build=axolotl,
        reader="TRL completions", exact=False, findings=frozenset({TEXT}),
        reference="ref-adapter", means=True,
    ),
    "verl to 0.7": Expected(
        row="verl", build=verl_old, names="global_step_{}",
        reader="verl rollout data", exact=False, findings=frozenset({TEXT, GUESSED, UNKNOWN}),
    ),
    "verl merged": Expected(
        row="verl", build=verl_merged, names="global_step_{}",
        reader="verl rollout data", exact=False, findings=frozenset({TEXT, GUESSED, UNKNOWN}),
    ),
    "verl by Megatron": Expected(
        row="verl", build=verl_megatron, names="global_step_{}",
        reader="verl rollout data", exact=False, findings=frozenset({TEXT, GUESSED, UNKNOWN}),
    ),
    "prime-rl": Expected(
        row="prime-rl", build=functools.partial(prime_rl, first=0), names="step_{}",
        reader="prime-rl token export", tokens=True,
    ),
    "prime-rl, counting from 1": Expected(
        row="prime-rl", build=functools.partial(prime_rl, first=1), names="step_{}",
        reader="prime-rl token export", tokens=True,
    ),
    "prime-rl, traces": Expected(
        row="prime-rl", build=prime_rl_traces, names="step_{}",
        reader="verifiers traces", tokens=True,
    ),
    "openrlhf": Expected(
        row="OpenRLHF", build=openrlhf, names="global_step{}_hf",
        reader="canonical JSONL or parquet",
        findings=frozenset({UNKNOWN, "reference-uncertain", "checkpoint-unreadable"}),
    ),
    "ms-swift": Expected(
        row="ms-swift", build=ms_swift,
        reader="ms-swift completions", exact=False, findings=frozenset({TEXT}),
    ),
    "nemo-rl": Expected(
        row="NeMo-RL", build=nemo_rl, names="step_{}", reader="NeMo-RL training data", tokens=True,
    ),
    "open-instruct": Expected(
        row="open-instruct", build=open_instruct, names="step_{}",
        reader="open-instruct traces", findings=frozenset({UNKNOWN}), tokens=True,
    ),
    "llama-factory": Expected(
        row="LLaMA-Factory", build=llama_factory,
        reader="named columns", exact=False, findings=frozenset({TEXT, UNKNOWN}), timed=False,
    ),
    "tinker": Expected(
        row="Tinker", build=tinker, names="{:06d}", reader="Tinker samples",
        findings=frozenset({UNKNOWN}), tokens=True,
    ),
    "verifiers": Expected(
        row="verifiers", build=verifiers, framework="unknown", names="tiny-lora",
        reader="verifiers evaluation results", exact=False, findings=frozenset({TEXT, UNKNOWN}),
        timed=False,
    ),
    "a bare adapter": Expected(
        row="any", build=bare, framework="unknown", names="tiny-lora",
        reader="canonical JSONL or parquet", findings=frozenset({UNKNOWN}),
    ),
}  # fmt: skip


#: Those of the quick suite, one for each way of keeping completions; all others are scanned in
#: the slow one, for a scan each is minutes together.
QUICK = ("trl", "verl merged", "prime-rl", "a bare adapter")


def chosen(holds: Callable[[Expected], bool]) -> list[Any]:
    """Names of the runs of which something holds, those outside `QUICK` marked slow."""
    assert set(QUICK) <= set(RUNS)
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name, expected in RUNS.items()
        if holds(expected)
    ]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The base under two names in a hub's cache: trainers know it by its name there."""
    folder = tmp_path_factory.mktemp("hub")
    for name in (BASE, UNSLOTH):
        repository = folder / f"models--{name.replace('/', '--')}"
        shutil.copytree(SAMPLE / "base", repository / "snapshots" / "0f")
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text("0f")
    with pytest.MonkeyPatch.context() as patch:
        # Pictures take most of a scan's time, and have tests of their own.
        patch.setattr("arca_diag.rendering.result_files", lambda *_: {})
        patch.setattr(hub, "HF_HUB_OFFLINE", True)
        patch.setattr(hub, "HF_HUB_CACHE", str(folder))
        yield


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What both commands say of a run."""

    inspection: Inspection
    report: Report
    tokens: pd.DataFrame


def look(home: Path, flags: Mapping[str, Any]) -> Seen:
    given = {"groups": 2, "dtype": "float64"} | dict(flags)
    out = home / "out"
    inspection = inspect_run(resolve(given, environ={}, cwd=home))
    report = diagnose(resolve(given | {"out": out}, environ=UNRENDERED, cwd=home)).report
    return Seen(
        inspection=inspection, report=report, tokens=pd.read_parquet(out / "tokens.parquet")
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Seen]:
    """Name -> what is seen of that run; each is built and scanned once."""

    @functools.cache
    def of_run(name: str) -> Seen:
        home = tmp_path_factory.mktemp("home")
        return look(home, RUNS[name].build(home))

    return of_run


def by_content(tokens: pd.DataFrame) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Step of the checkpoint and ids of the completion, its end aside -> its tokens."""
    found = {}
    for (step, _), rows in tokens.groupby(["checkpoint_step", "rollout_id"], dropna=False):
        rows = rows.sort_values("position")
        ids = [i for i in rows["token_id"] if i != EOS]
        found[step, *ids] = rows
    return found


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[Any, ...], pd.DataFrame]:
    """A scan of the sample as TRL and the recorder left it, but for later rows of its tables."""
    home = tmp_path_factory.mktemp("original")
    run = sample_copy(home, STEPS, [step + 1 for step in STEPS])
    for table in (run / "completions").iterdir():
        pq.write_table(pq.read_table(table).slice(0, 32), table)
    return by_content(look(home, {"run": run}).tokens)


def test_every_row_of_the_readmes_table_has_a_run() -> None:
    table = (ROOT / "README.md").read_text().partition("| trainer |")[2].partition("\n\n")[0]
    rows = {row.split("|")[1].strip() for row in table.splitlines()[2:]}
    assert rows == {expected.row for expected in RUNS.values()}


@pytest.mark.parametrize("name", chosen(lambda _: True))
def test_inspect_says_who_left_it_and_what_is_there(seen, name):
    expected, found = RUNS[name], seen(name).inspection
    steps = STEPS if "{" in expected.names else (None,)
    assert found.run.framework == (expected.framework or expected.row.lower())
    readable = [c for c in found.run.checkpoints if c.reason is None]
    assert [c.step for c in readable] == list(steps)
    assert [c.name for c in readable] == [expected.names.format(step) for step in steps]
    assert found.reference.kind == expected.reference
    assert found.base.found
    assert found.rollouts.source.startswith(expected.reader)
    assert (found.rollouts.found, found.rollouts.groups) == (24, 6)
    assert found.rollouts.ids_exact is expected.exact
    assert found.rollouts.steps == (list(STEPS) if expected.timed else [])
    told = {f.id for f in found.findings if f.level != "note"}
    assert told == expected.findings, [f.message for f in found.findings]


@pytest.mark.parametrize("name", chosen(lambda _: True))
def test_a_scan_gives_what_a_scan_of_the_sample_gives(seen, original, name):
    expected, tokens = RUNS[name], seen(name).tokens
    if "{" not in expected.names:
        tokens = tokens.assign(checkpoint_step=20)
    compared = by_content(tokens)
    for key, rows in compared.items():
        truth = original[key].iloc[: len(rows)]  # a text does not hold the closing token
        assert list(rows["token_id"]) == list(truth["token_id"])
        for column in ("surprisal", "entropy", "kl_exact", "residual", "log_ratio"):
            assert rows[column].to_numpy() == pytest.approx(
                truth[column].to_numpy(), rel=1e-6, abs=1e-6
            ), column
        assert rows["residual"].min() > 1e-3
    assert len(compared) >= (60 if "{" in expected.names else 20)


@pytest.mark.parametrize("name", chosen(lambda e: e.timed and "{" in e.names))
def test_a_checkpoint_is_measured_on_what_its_own_policy_sampled(seen, name):
    apart = {
        m.checkpoint: m.value
        for m in seen(name).report.measurements
        if m.name == "step_distance_max" and m.view == "on-policy"
    }
    assert apart == dict.fromkeys(STEPS, 0)


@pytest.mark.parametrize("name", chosen(lambda e: bool(e.tokens)))
def test_what_was_logged_of_single_tokens_is_compared(seen, name):
    for fidelity in seen(name).report.replay_fidelity:
        shift, status = SHIFTS[int(fidelity.checkpoint)]
        assert fidelity.status == status
        gaps = [v for k, v in fidelity.figures.items() if k.endswith("mean_abs_difference")]
        assert max(gaps) == pytest.approx(shift, abs=1e-4)
        told = [
            f.level
            for f in seen(name).report.findings
            if (f.id, f.checkpoint) == ("replay-mismatch", int(fidelity.checkpoint))
        ]
        assert told == {"fail": ["error"], "warn": ["warn"], "pass": []}[status]


@pytest.mark.parametrize("name", chosen(lambda e: bool(e.means)))
def test_what_was_logged_of_a_batch_is_compared(seen, name):
    for fidelity in seen(name).report.replay_fidelity:
        assert fidelity.status == "pass", fidelity.reason
        assert fidelity.figures["log_step"] == int(fidelity.checkpoint) + 1


def test_an_adapter_that_verls_merger_gave_no_alpha_is_inert(tmp_path):
    found = look(tmp_path, verl_merged(tmp_path, alpha=0))
    for findings in (found.inspection.findings, found.report.findings):
        told = [f for f in findings if f.id == "adapter-inert"]
        assert {f.checkpoint for f in told} == set(STEPS)
        assert "error" in {f.level for f in told}
    assert (found.tokens["residual"] == 0).all()


def test_the_next_command_has_the_options_that_were_given(tmp_path):
    flags = llama_factory(tmp_path)
    given = [str(flags.pop("run"))]
    for name, value in ({"base": BASE} | flags | {"fixed-groups": 0}).items():
        given += [f"--{name}", str(value)]
    done = CliRunner().invoke(app, ["inspect", *given, "--skip-bad-lines", "--no-tensors"])
    assert done.exit_code == 0, done.output
    command = shlex.split(done.stdout.splitlines()[-1])
    assert command == ["Next", "arca-diag", "scan", *given, "--skip-bad-lines"]


@pytest.mark.parametrize(
    ("build", "place"),
    [
        (verl_old, "global_step_100/actor/huggingface"),
        (verl_merged, "merged/global_step_100"),
        (verl_megatron, "global_step_100/actor/model/huggingface"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_tokenizer_near_the_adapter_comes_before_the_bases(tmp_path, build, place):
    flags = build(tmp_path)
    tokenizer_into(flags["run"] / place)
    edit_json(flags["run"] / place / "tokenizer_config.json", chat_template="the run's own")
    config = resolve({"base": BASE} | flags, environ=UNRENDERED, cwd=tmp_path)
    found = gather(config, find_run(flags["run"]), frozenset())
    assert found.tokenizer.chat_template == "the run's own"
