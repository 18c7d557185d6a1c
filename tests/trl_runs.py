"""Train small runs with the installed TRL, so that tests read what TRL itself leaves on disk.

    python tests/trl_runs.py OUT            # every run, each in a folder of OUT
    python tests/trl_runs.py OUT hot dora   # these only

Every run trains the base of the tiny sample for a few steps on a CPU: two prompts of four
completions a step, and no checkpoint of the last step, so that each checkpoint's own completions
are there. Nothing that TRL wrote is changed afterwards.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # read by the libraries below when they are imported

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from arca_diag.trl import recorder

TINY = Path(__file__).resolve().parents[1] / "sample_runs" / "tiny-addition"
BASE = TINY / "base"

TRAINING_PROMPTS = [f"{a}+{b}>" for a in (12, 34, 56, 78) for b in (19, 28, 37, 46)]
EVALUATION_PROMPTS = ["91+13>", "82+24>", "73+35>"]  # none of the above

BATCH = 8  # completions that are generated, and trained on, at once
GROUP = 4
LIMIT = 20  # tokens of a completion: some end before it, some do not


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one run differs from the plainest.

    Attributes:
        steps: Optimizer steps.
        lora: Changes to the LoRA configuration.
        arguments: Changes to the trainer's arguments.
        records: Whether the recorder is among the reward functions.
        template: The tokenizer's chat template; prompts are then messages.
        evaluates: The evaluation prompts.
        model: What to train, given the output folder; by default the base and a fresh LoRA.
        finish: What the user calls when training is over.
    """

    steps: int = 4
    lora: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    records: bool = True
    template: str = ""
    evaluates: Sequence[str] = ()
    model: Callable[[Path], Any] = lambda out: str(BASE)
    finish: Callable[[GRPOTrainer], object] = GRPOTrainer.save_state


def odd_digits(completions: list[Any], **_: object) -> list[float]:
    """The share of odd digits, 0 to 1: different within nearly every group."""
    texts = [c if isinstance(c, str) else c[0]["content"] for c in completions]
    return [sum(text.count(digit) for digit in "13579") / (len(text) or 1) for text in texts]


class LastStepUnsaved(TrainerCallback):
    """The trainer always saves the last step; without that checkpoint the run is one step longer
    than its last checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: object) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False


def continued(out: Path, *, trainable: bool) -> PeftModel:
    """The base with the adapter of a finished run, as users load it to train further."""
    adapter = out / "start"
    if not adapter.is_dir():
        shutil.copytree(TINY / "checkpoint-100", adapter)
        path = adapter / "adapter_config.json"
        config = json.loads(path.read_bytes()) | {"base_model_name_or_path": str(BASE)}
        path.write_text(json.dumps(config))
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    return PeftModel.from_pretrained(base, str(adapter), is_trainable=trainable)


def base_with_biases(out: Path) -> str:
    """The base with biases, all zero, in its attention: it has none for a LoRA to train."""
    folder = out / "base-with-biases"
    # The biases are missing in the file, so they are made anew, which means zeros.
    model = AutoModelForCausalLM.from_pretrained(BASE, attention_bias=True, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
    return str(folder)


#: The runs, by the names of their folders.
RECIPES = {
    "fresh": Recipe(),
    "no-recorder": Recipe(records=False),
    "continued": Recipe(model=lambda out: continued(out, trainable=True), arguments={"beta": 0.05}),
    # Nothing is trainable when the optimizer is made, and nothing complains.
    "no-op": Recipe(model=lambda out: continued(out, trainable=False), arguments={"beta": 0.05}),
    "pissa": Recipe(lora={"init_lora_weights": "pissa"}, arguments={"beta": 0.05}),
    "olora": Recipe(lora={"init_lora_weights": "olora"}, arguments={"beta": 0.05}),
    "dora": Recipe(lora={"use_dora": True}),
    "rslora": Recipe(lora={"use_rslora": True}),
    "bias": Recipe(lora={"bias": "lora_only"}, model=base_with_biases),
    "hot": Recipe(arguments={"temperature": 0.7}, finish=GRPOTrainer.save_model),
    "chat": Recipe(
        template="{% for m in messages %}{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}>{% endif %}"
    ),
    "reused": Recipe(steps=5, arguments={"num_iterations": 2}),
    "accumulated": Recipe(
        steps=5, arguments={"steps_per_generation": 2, "per_device_train_batch_size": BATCH // 2}
    ),
    # The summary at the end writes a table too, of the step that no other entry is about.
    "sparse": Recipe(steps=5, arguments={"logging_steps": 2}),
    # Twelve evaluated completions a time: more than the trainer keeps. The schedule would have an
    # evaluation at step 2, which the delay forbids; that of step 5 comes after the last
    # checkpoint, so no state tells of it.
    "evaluated": Recipe(
        steps=5,
        arguments={"eval_strategy": "steps", "eval_steps": 2, "eval_delay": 3},
        evaluates=EVALUATION_PROMPTS,
        finish=lambda trainer: None,
    ),
    # Two a time, so that what the trainer keeps is mostly training; steps 3 and 5 are not logged.
    "evaluated-mixed": Recipe(
        steps=7,
        arguments={
            "eval_strategy": "steps",
            "eval_steps": 3,
            "eval_on_start": True,
            "num_generations_eval": 2,
            "logging_steps": 2,
        },
        evaluates=EVALUATION_PROMPTS[:1],
    ),
    # Evaluated while a batch is in use: the next step logs what the evaluation left.
    "evaluated-reused": Recipe(
        steps=6,
        arguments={"eval_strategy": "steps", "eval_steps": 3, "num_iterations": 2},
        evaluates=EVALUATION_PROMPTS[:1],
    ),
    # Nothing but the call itself: no schedule, and no state written after it.
    "evaluated-after": Recipe(evaluates=EVALUATION_PROMPTS, finish=GRPOTrainer.evaluate),
}


def train(name: str, out: Path) -> None:
    """Make one run."""
    recipe = RECIPES[name]
    arguments: dict[str, Any] = {
        "output_dir": str(out / name),
        "max_steps": recipe.steps,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": GROUP,
        "num_generations": GROUP,
        "max_completion_length": LIMIT,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "logging_steps": 1,
        "log_completions": True,
        "num_completions_to_print": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
    model = recipe.model(out)
    fresh = isinstance(model, str)
    lora = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="left")
    training: list[dict[str, Any]] = [{"prompt": prompt} for prompt in TRAINING_PROMPTS]
    if recipe.template:
        tokenizer.chat_template = recipe.template
        said = [prompt.removesuffix(">") for prompt in TRAINING_PROMPTS]
        training = [{"prompt": [{"role": "user", "content": text}]} for text in said]
    evaluation = [{"prompt": prompt} for prompt in recipe.evaluates]
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            **arguments
            | recipe.arguments
            | ({"model_init_kwargs": {"dtype": "float32"}} if fresh else {})
        ),
        reward_funcs=[odd_digits, *([recorder()] if recipe.records else [])],
        train_dataset=Dataset.from_list(training),
        eval_dataset=Dataset.from_list(evaluation) if evaluation else None,
        peft_config=LoraConfig(**lora | recipe.lora) if fresh else None,
        processing_class=tokenizer,
        callbacks=[LastStepUnsaved()],
    )
    trainer.train()
    recipe.finish(trainer)


def main() -> None:
    """Make the runs that the command line names, or all."""
    out, names = Path(sys.argv[1]).resolve(), sys.argv[2:] or list(RECIPES)
    torch.set_num_threads(1)
    for name in names:
        train(name, out)


if __name__ == "__main__":
    main()
