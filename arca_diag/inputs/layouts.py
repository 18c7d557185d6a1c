"""How each framework lays its checkpoints out, told from names of folders and files alone.

`LAYOUTS` is the list of them all. A step folder either leads to the folder of a LoRA adapter, or
holds a training state without one: then the command that makes an adapter of it is worth more
than "not found".
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from arca_diag.inputs import looks
from arca_diag.inputs.checkpoints import Fault, Refused

#: Given a step folder and the run: the adapter's folder, a fault, or None if it is neither.
Look = Callable[[Path, Path], Path | Fault | None]


@dataclass(frozen=True)
class Place:
    """Where in the run step folders lie (the run itself is ""), how they are called, what is in."""

    folder: str
    step: re.Pattern[str]
    look: Look

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders between the run and its step folders."""
        return PurePosixPath(self.folder).parts


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One framework's way.

    Attributes:
        name: Short, for reports.
        evidence: What it is recognised by, in words.
        places: Where step folders lie; where two hold the same step the earlier place counts.
        signs: Names in a run's folder that show it to be a run, whatever number of checkpoints
            it has.
        needs: A file without which it is not this layout; empty if there is none.
        others: Refused checkpoints that have no folder.
    """

    name: str
    evidence: str
    places: tuple[Place, ...]
    signs: re.Pattern[str]
    needs: str = ""
    others: Callable[[Path], Iterator[Refused]] = lambda root: iter(())


_STEP = re.compile(r"step_([0-9]+)")
_GLOBAL_STEP = re.compile(r"global_step_([0-9]+)")
_TAG = re.compile(r"global_step([0-9]+)")

LAYOUTS = (
    Layout(
        name="hf",
        evidence="checkpoint-* folders",
        places=(Place("", re.compile(r"checkpoint-([0-9]+)"), looks.hf),),
        signs=re.compile(
            r"completions(\.jsonl)?|(trainer_state|args)\.json|(logging|trainer_log)\.jsonl"
            r"|training_args\.bin"
        ),
    ),
    Layout(
        name="verl",
        evidence="global_step_* folders",
        places=(Place("", _GLOBAL_STEP, looks.verl), Place("merged", _GLOBAL_STEP, looks.verl)),
        signs=re.compile(r"latest_checkpointed_iteration\.txt|global_step_[0-9]+"),
    ),
    Layout(
        name="prime-rl",
        evidence="step_* folders with a STABLE file, or broadcasts/, weights/ or checkpoints/",
        places=(
            Place("broadcasts", _STEP, looks.broadcast),
            Place("run_default/broadcasts", _STEP, looks.broadcast),
            Place("weights", _STEP, looks.search),
            Place("", _STEP, looks.broadcast),
            Place("checkpoints", _STEP, looks.prime_state),
        ),
        signs=re.compile(
            r"broadcasts|weights|checkpoints|configs|control|rollouts|token_exports|run_default"
        ),
    ),
    Layout(
        name="openrlhf",
        evidence="global_step*_hf folders, or _actor/",
        places=(
            Place("", re.compile(r"(?:.+_)?global_step([0-9]+)_hf"), looks.saved),
            Place("_actor", _TAG, looks.openrlhf_state),
        ),
        signs=re.compile(r"_actor|_critic|global_step[0-9]+_hf"),
    ),
    Layout(
        name="nemo-rl",
        evidence="step_* folders with policy/ or training_info.json",
        places=(Place("", _STEP, looks.nemo),),
        signs=re.compile(r"tmp_step_[0-9]+"),
    ),
    Layout(
        name="tinker",
        evidence="checkpoints.jsonl",
        places=(
            Place("", re.compile(r"([0-9]+)"), looks.saved),
            Place("adapters", re.compile(r"([0-9]+)"), looks.saved),
        ),
        signs=re.compile(r"checkpoints\.jsonl"),
        needs="checkpoints.jsonl",
        others=looks.tinker_remote,
    ),
    Layout(
        name="steps",
        evidence="step_* folders with an adapter",
        places=(Place("", _STEP, looks.plain),),
        signs=re.compile(r".+_rollouts_[0-9]+\.jsonl"),
    ),
    Layout(
        name="deepspeed",
        evidence="global_step* folders of DeepSpeed",
        places=(Place("", _TAG, looks.deepspeed),),
        signs=re.compile(r"zero_to_fp32\.py|latest"),
    ),
)
