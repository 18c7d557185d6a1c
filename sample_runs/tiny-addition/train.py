"""Make the tiny sample run: a 334,560-parameter base from scratch, then GRPO with a rank-4 LoRA.

    pip install -e '.[samples]'
    python sample_runs/tiny-addition/train.py            # all of it, some minutes on a CPU core
    python sample_runs/tiny-addition/train.py readme     # only measure again and rewrite README.md

Four stages: `base` (trains the base model, unless it is there), `grpo` (trains the run), `trim`
(drops what the sample does not need) and `readme` (measures, and writes README.md from that).
Writes everything beside this file. Paths are relative on purpose: TRL stores them.
"""

import json
import math
import os
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from trl import GRPOConfig, GRPOTrainer

from arca_diag.trl import recorder

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from curve import framework_versions, share, table, tenths  # noqa: E402  (beside the runs)

RUN = Path(HERE.name)  # relative to the working directory that main() sets
BASE = f"{HERE.name}/base"  # a string with `/`, as adapter_config.json shall hold it
PROMPT = "{a}+{b}>"
SPECIAL = ["<pad>", "<bos>", "<eos>", "<unk>"]
CHARACTERS = "0123456789+=,;>? c"
BASE_STEPS = 600
BASE_BATCH = 128
SAVE_AT = (2, 20, 40, 60, 80, 100)
LAST_STEP = max(SAVE_AT) + 1  # one further, so that the last checkpoint's own completions exist
EXTRA_COMPLETIONS = (10, 30, 50, 70, 90)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
EVALUATED = 2000  # problems per measured accuracy


# ---------------------------------------------------------------- stage 1: the base model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character; decoding gives the text back without added spaces."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *CHARACTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",  # as TRL loads it
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=128,
    )


def worked(a: int, b: int, rng: random.Random) -> str:
    """A worked solution of `a + b`, one of four kinds, with some digits wrong on purpose.

    A wrong number is carried on into the steps after it. `carry` 28+57: `8+7=15 c1,2+5+1=8 c0,=85`;
    `split`: `20+50=70,8+7=15,70+15=85,=85`; `short`: `28+50=78,=85`; `redo`: as `split`, ones
    first, the first result always wrong, then `?` and again.
    """
    kind = rng.choices(["carry", "split", "short", "redo"], [0.40, 0.25, 0.20, 0.15])[0]
    wrong = {"carry": 0.28, "split": 0.24, "short": 0.35, "redo": 0.12}[kind]
    if rng.random() < 0.4:
        a, b = b, a
    tens, ones = (a - a % 10, b - b % 10), (a % 10, b % 10)

    def say(value: int) -> int:
        return _wrong(value, rng) if rng.random() < wrong else value

    if kind == "carry":
        low = say(sum(ones))
        carry = f"+{low // 10}" if low >= 10 else ""
        high = say(tens[0] // 10 + tens[1] // 10 + low // 10)
        steps = [
            f"{ones[0]}+{ones[1]}={low} c{low // 10}",
            f"{tens[0] // 10}+{tens[1] // 10}{carry}={high} c{high // 10}",
        ]
        total = 10 * high + low % 10
    elif kind == "short":
        first = say(a + tens[1])
        steps = [f"{a}+{tens[1]}={first}"]
        total = first + ones[1]
    else:
        high, low = say(sum(tens)), say(sum(ones))
        total = say(high + low)
        steps = [f"{tens[0]}+{tens[1]}={high}", f"{ones[0]}+{ones[1]}={low}"]
        if kind == "redo":
            steps.reverse()
            steps[0] = f"{ones[0]}+{ones[1]}={_wrong(sum(ones), rng)}?{steps[0]}"
        steps.append(f"{high}+{low}={total}")
    separator = ";" if rng.random() < 0.3 else ","
    return separator.join([*steps, f"={say(total)}"])


def _wrong(value: int, rng: random.Random) -> int:
    """The number with one digit changed, and as many digits as before."""
    digits = list(str(value))
    place = rng.randrange(len(digits))
    lowest = 1 if place == 0 and len(digits) > 1 else 0
    digits[place] = rng.choice([d for d in "0123456789"[lowest:] if d != digits[place]])
    return int("".join(digits))


def train_base() -> None:
    """Train the base on noisy worked additions, and save it. Loss on the solution only."""
    set_seed(0)
    rng = random.Random(0)
    tokenizer = make_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    print(f"base: {model.num_parameters():,} parameters, vocabulary {len(tokenizer)}", flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda s: min(1, (s + 1) / 20) * 0.5 * (1 + math.cos(math.pi * s / BASE_STEPS)),
    )
    for step in range(BASE_STEPS):
        loss = model(**_batch(tokenizer, rng)).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"base step {step + 1}: loss {loss.item():.4f}", flush=True)
    tokenizer.save_pretrained(BASE)
    model.save_pretrained(BASE)
    # transformers 4 reads rope_theta and does not know rope_parameters, where 5 put it.
    path = Path(BASE) / "config.json"
    written = json.loads(path.read_text())
    written["rope_theta"] = written["rope_parameters"]["rope_theta"]
    path.write_text(json.dumps(dict(sorted(written.items())), indent=2) + "\n")


def _batch(tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> dict[str, torch.Tensor]:
    """Right-padded ids with the prompt ids masked out of the labels."""
    rows = []
    for _ in range(BASE_BATCH):
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        prompt = tokenizer(text=PROMPT.format(a=a, b=b))["input_ids"]
        answer = tokenizer(text=worked(a, b, rng), add_special_tokens=False)["input_ids"]
        rows.append((prompt, [*answer, tokenizer.eos_token_id]))
    width = max(len(p) + len(c) for p, c in rows)
    ids = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels = torch.full((len(rows), width), -100)
    for i, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[i, :end] = torch.tensor(prompt + answer)
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": ids, "labels": labels}


# ---------------------------------------------------------------- stage 2: GRPO


def is_right(completion: str, a: int, b: int) -> bool:
    """Whether the last number after the last `=` is the sum."""
    numbers = re.findall(r"\d+", completion.rpartition("=")[2]) if "=" in completion else []
    return bool(numbers) and int(numbers[-1]) == a + b


def exact_match(completions: list[str], a: list[int], b: list[int], **_: object) -> list[float]:
    """1.0 for the right sum at the end, else 0.0."""
    rows = zip(completions, a, b, strict=True)
    return [float(is_right(text, x, y)) for text, x, y in rows]


class SaveAt(TrainerCallback):
    """Save exactly at the steps of SAVE_AT."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Ask for a checkpoint."""
        control.should_save = state.global_step in SAVE_AT


def train_grpo() -> None:
    """Train the LoRA, and leave the run directory as TRL writes it."""
    for old in [*RUN.glob("checkpoint-*"), RUN / "completions"]:
        shutil.rmtree(old, ignore_errors=True)
    pairs = problems(8 * LAST_STEP, seed=1)
    data = Dataset.from_list(
        [{"prompt": PROMPT.format(a=a, b=b), "a": a, "b": b} for a, b in pairs]
    )
    config = GRPOConfig(
        output_dir=str(RUN),
        max_steps=LAST_STEP,
        per_device_train_batch_size=128,
        num_generations=16,
        max_completion_length=48,
        learning_rate=6e-4,
        lr_scheduler_type="constant",
        beta=0.0,
        temperature=1.0,
        gradient_checkpointing=False,
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
        logging_steps=1,
        log_completions=True,
        num_completions_to_print=1,
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
        reward_funcs=[exact_match, recorder()],
        train_dataset=data,
        peft_config=lora,
        callbacks=[SaveAt()],
    )
    trainer.train()
    trainer.save_state()


def problems(count: int, seed: int) -> list[tuple[int, int]]:
    """Different pairs of two-digit numbers."""
    every = [(a, b) for a in range(10, 100) for b in range(10, 100)]
    return random.Random(seed).sample(every, count)


# ---------------------------------------------------------------- stage 3: trim


def trim() -> None:
    """Leave one copy of the tokenizer, in the run itself, and few of the completions.

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


# ---------------------------------------------------------------- stage 4: README.md


def measure(checkpoint: Path | None) -> dict[str, dict[str, float]]:
    """Accuracy and length of the base, or of a checkpoint, sampled and greedy."""
    tokenizer = AutoTokenizer.from_pretrained(BASE, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    if checkpoint:
        model = PeftModel.from_pretrained(model, str(checkpoint))
    model.eval()
    set_seed(0)
    pairs = problems(EVALUATED, seed=2)
    prompts = tokenizer(
        text=[PROMPT.format(a=a, b=b) for a, b in pairs], padding=True, return_tensors="pt"
    )
    start, result = prompts["input_ids"].shape[1], {}
    modes = {"sampled": {"do_sample": True, "top_k": 0}, "greedy": {"do_sample": False}}
    for name, sample in modes.items():
        with torch.no_grad():
            ids = model.generate(**prompts, **sample, max_new_tokens=48)[:, start:]
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        right = [is_right(t, a, b) for t, (a, b) in zip(texts, pairs, strict=True)]
        rate = sum(right) / len(right)
        result[name] = {
            "right": rate,
            "error": math.sqrt(rate * (1 - rate) / len(right)),
            "length": (ids != tokenizer.pad_token_id).sum().item() / len(right),
        }
    return result


README = """\
# tiny-addition

A sample run for arca-diag, small enough to lie in the repository: GRPO (TRL) with a rank-4 LoRA
on a language model of 334,560 parameters that adds two-digit numbers. Prompts are plain text
such as `28+57>`; the reward is 1 if the last number after the last `=` is the sum, else 0.

`base/` was trained from scratch ({base_steps} steps of {base_batch}) on worked additions of four
kinds in which 12 to 35 in 100 of the numbers are wrong on purpose, so that sampling from it is
often wrong. All 8,100 problems can occur in that training and in the measurements below: nothing
here is a held-out score.

## How it was made

    pip install -e '.[samples]'
    python sample_runs/tiny-addition/train.py

`python sample_runs/tiny-addition/train.py readme` measures again and rewrites this file; the
figures under "What happened" come from there. The run directory is as TRL wrote it, except for
what `trim()` in `train.py` did: one copy of the tokenizer that TRL wrote into every checkpoint
lies in the run itself (`tokenizer.json` is the file in `base/`, byte for byte;
`tokenizer_config.json` has TRL's load options added), and of `completions/` only these are kept:
for each checkpoint N the files
N-1 to N+3 that exist, and {extra}. File k holds what was sampled after k-1
optimizer steps.

## What happened

Mean reward went from {first} in the first tenth of the run to {last} in the last
({ratio:.1f} times as much; {sigmas:.0f} standard errors apart). An error here is the standard
error over the steps of a tenth. Entropy is TRL's, in nats per token; length in tokens, the
closing one included.

{table}

Measured on {evaluated:,} problems (temperature 1; the standard errors are binomial):

| Model | Sampled, right | Greedy, right | Sampled, length | Greedy, length |
| --- | --- | --- | --- | --- |
{measured}

**Greedy decoding was right already** ({base_greedy} before, {last_greedy} after), so this run
mostly removes sampling noise, much of it put there on purpose; it teaches hardly any addition
that the base could not do. Do not read it as an example of a model learning a new skill.

### Framework versions

{versions}
"""


def write_readme() -> None:
    """Measure, and write README.md; the versions are those that TRL wrote into its model card."""
    path = RUN / "README.md"
    curve = tenths(RUN)
    first, last = curve[0], curve[-1]
    measured = {"base": measure(None)}
    measured |= {f"checkpoint-{n}": measure(RUN / f"checkpoint-{n}") for n in SAVE_AT}

    text = README.format(
        base_steps=BASE_STEPS,
        base_batch=BASE_BATCH,
        extra=", ".join(map(str, EXTRA_COMPLETIONS)),
        first=share(first, "reward"),
        last=share(last, "reward"),
        ratio=last["reward"] / first["reward"],
        sigmas=(last["reward"] - first["reward"]) / math.hypot(first["error"], last["error"]),
        table=table(curve),
        evaluated=EVALUATED,
        measured="\n".join(
            f"| {name} | {share(m['sampled'], 'right')} | {share(m['greedy'], 'right')} "
            f"| {m['sampled']['length']:.1f} | {m['greedy']['length']:.1f} |"
            for name, m in measured.items()
        ),
        base_greedy=share(measured["base"]["greedy"], "right"),
        last_greedy=share(measured[f"checkpoint-{SAVE_AT[-1]}"]["greedy"], "right"),
        versions=framework_versions(path),
    )
    path.write_text(text, encoding="utf-8")
    print(text, flush=True)


STAGES: dict[str, Callable[[], None]] = {
    "base": train_base,
    "grpo": train_grpo,
    "trim": trim,
    "readme": write_readme,
}


def main() -> None:
    """Run the stages named on the command line, or all; an existing base is kept then."""
    os.chdir(HERE.parent)
    torch.set_num_threads(1)
    names = sys.argv[1:] or list(STAGES)
    if not sys.argv[1:] and (Path(BASE) / "model.safetensors").is_file():
        names.remove("base")
    for name in names:
        STAGES[name]()


if __name__ == "__main__":
    main()
