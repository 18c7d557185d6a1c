"""What is wrong with the adapters of a run, told without a model: a rule a fault, in `RULES`.

Each rule yields findings. A state that a healthy run goes through, as the zero B that every plain
LoRA starts with, is a note.
"""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from arca_diag.errors import ArcaError
from arca_diag.inputs.adapters import Adapter, is_shard
from arca_diag.inputs.inert import Inert, equals_reference, why_inert, zero_tensors
from arca_diag.inputs.placing import MEND_NAMES, lora_tensors, trains_nothing, unplaced
from arca_diag.inputs.reference import rewrites_base
from arca_diag.inputs.updates import LayerUpdate, Updates, summarise
from arca_diag.results import Finding
from arca_diag.thresholds import DEFAULT, Cuts

_FEWEST_LAYERS = 4  # among which one can dominate
_VOCABULARY = (".lora_embedding_A", "lm_head.lora_A.weight")  # of matrices with a row a token

_SHOWN = 10  # names in a finding's evidence


@dataclass(frozen=True, kw_only=True)
class LintContext:
    """What the rules know beside the adapters.

    Attributes:
        peft_version: Of the installed PEFT.
        base_fault: Why the base model cannot be used; None if it can.
        cuts: Those in force.
    """

    peft_version: str
    base_fault: ArcaError | None = None
    cuts: Cuts = DEFAULT


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a rule looks at.

    Attributes:
        adapters: In step order, at least one.
        context: The rest.
        updates: Checkpoint name -> its layers' updates; None where values are not looked at.
        inert: Checkpoint name -> why it does nothing, of those that do nothing.
    """

    adapters: tuple[Adapter, ...]
    context: LintContext
    updates: Updates | None
    inert: Mapping[str, Inert]

    def updates_of(self, adapter: Adapter) -> tuple[LayerUpdate, ...]:
        """Its layers' updates; empty where values are not looked at."""
        return self.updates[adapter.checkpoint.name] if self.updates else ()


def adapter_broken(subject: Subject) -> Iterator[Finding]:
    """NaN or infinity among the values."""
    for adapter in () if subject.updates is None else subject.adapters:
        bad = {}
        for key, values in adapter.tensors.items():
            if count := values.size - int(np.isfinite(values).sum()):
                bad[key] = count
        if bad:
            yield _finding(
                "adapter-broken",
                "error",
                adapter,
                f"{len(bad)} of {len(adapter.shapes)} tensors hold NaN or infinity, in "
                f"{sum(bad.values()):,} places",
                "training diverged before this checkpoint: go back to an earlier one, lower "
                "learning_rate or max_grad_norm, and look for the first NaN in the log",
                tensors=dict(list(bad.items())[:_SHOWN]),
                n_tensors=len(bad),
                n_values=sum(bad.values()),
            )


def adapter_sharded(subject: Subject) -> Iterator[Finding]:
    """Matrices without a side: one process's part of a sharded adapter."""
    for adapter in subject.adapters:
        parts = {key: list(shape) for key, shape in adapter.shapes.items() if is_shard(key, shape)}
        if parts:
            yield _finding(
                "adapter-sharded",
                "error",
                adapter,
                f"{len(parts)} of {len(lora_tensors(adapter))} LoRA tensors are empty or flat: "
                "parts of a sharded adapter, not matrices",
                "save the gathered adapter: stage3_gather_16bit_weights_on_model_save (DeepSpeed "
                "ZeRO-3), or FULL_STATE_DICT (FSDP)",
                tensors=dict(list(parts.items())[:_SHOWN]),
                n_tensors=len(parts),
            )


def adapter_inert(subject: Subject) -> Iterator[Finding]:
    """An adapter that changes nothing: by its names, by its scale, or by its values."""
    for adapter in subject.adapters:
        if why := subject.inert.get(adapter.checkpoint.name):
            begun = not _before_training((adapter,), subject.inert, subject)
            yield _finding(
                "adapter-inert",
                "error" if begun else "note",
                adapter,
                why.reason,
                why.action,
                **_listed("tensors", why.tensors),
                alpha=adapter.alpha,
                rank=adapter.rank,
            )


def keys_unmatched(subject: Subject) -> Iterator[Finding]:
    """Some tensors that PEFT would leave out when it loads the adapter."""
    for adapter in subject.adapters:
        lost, there = unplaced(adapter), lora_tensors(adapter)
        if 0 < len(lost) < len(there):
            yield _finding(
                "keys-unmatched",
                "error",
                adapter,
                f"PEFT would place only {len(there) - len(lost)} of {len(there)} LoRA tensors, "
                "and leave the rest out with a warning at most",
                MEND_NAMES,
                **_listed("tensors", lost),
            )


def adapter_unchanged(subject: Subject) -> Iterator[Finding]:
    """Checkpoints with the same bytes, or with the values of the reference kept in them."""
    same: dict[str, list[Adapter]] = {}
    for adapter in () if subject.updates is None else subject.adapters:
        same.setdefault(adapter.sha256, []).append(adapter)
    for digest, group in same.items():
        names = [a.checkpoint.name for a in group]
        like_ref = [a.checkpoint.name for a in group if equals_reference(a)]
        if len(group) == 1 and not like_ref:
            continue
        said = [f"{_few(names)} are equal, byte for byte"] if len(group) > 1 else []
        said += [f"{_few(like_ref)}: the adapter equals the reference in ref/"] if like_ref else []
        fresh = all((a.checkpoint.step or 0) <= 1 for a in group) or names[0] in subject.inert
        begun = not ((like_ref or fresh) and _before_training(group, names, subject))
        for adapter in group:
            yield _finding(
                "adapter-unchanged",
                "error" if begun else "note",
                adapter,
                f"{'; '.join(said)}: training changed nothing",
                "was the adapter that was trained the one that was saved, and was it trainable, "
                "PeftModel.from_pretrained(..., is_trainable=True)? Look at "
                "print_trainable_parameters() before training",
                checkpoints=names,
                like_ref=like_ref,
                sha256=digest,
                **_listed("tensors", lora_tensors(group[0])),
                source="trl pull request 6701: a run that trains nothing and logs as usual",
            )


def nothing_trainable(subject: Subject) -> Iterator[Finding]:
    """A configuration by which PEFT would train nothing."""
    for adapter in subject.adapters:
        if why := trains_nothing(adapter):
            yield _finding(
                "nothing-trainable",
                "error",
                adapter,
                f"by its configuration the adapter trains nothing: {why}",
                "set r, target_modules and layers_to_transform of LoraConfig, and look at "
                "print_trainable_parameters() before training",
                rank=adapter.rank,
                target_modules=list(adapter.targets[:_SHOWN]),
                **_listed("tensors", lora_tensors(adapter)),
            )


def layer_dominates(subject: Subject) -> Iterator[Finding]:
    """One layer that carries most of the update, where all of them began at zero."""
    for adapter in subject.adapters:
        if rewrites_base(adapter) or adapter.init == "false":
            continue  # the update includes a start that is as large as the base made it
        inner = [
            u for u in subject.updates_of(adapter) if not u.layer.tensors[0].endswith(_VOCABULARY)
        ]
        if len(inner) < _FEWEST_LAYERS:
            continue
        share, most = max(
            zip(summarise(inner).shares, inner, strict=True), key=lambda pair: pair[0]
        )
        if subject.context.cuts.passed("layer-dominates", share):
            yield _finding(
                "layer-dominates",
                "warn",
                adapter,
                f"{most.layer.name} carries {share:.0%} of the squared update of {len(inner)} "
                "layers",
                "look at that layer's gradients and at alpha_pattern; weight decay, or a lower "
                "learning_rate or lora_alpha, holds it back",
                share=share,
                norm=most.norm,
                median_norm=float(np.median([u.norm for u in inner])),
                layers=len(inner),
                tensors=list(most.layer.tensors),
            )


def layers_dead(subject: Subject) -> Iterator[Finding]:
    """Layers whose update is exactly zero, in an adapter that does something."""
    for adapter in subject.adapters:
        updates = subject.updates_of(adapter)
        dead = [u for u in updates if u.norm == 0]
        if not dead or adapter.checkpoint.step == 0 or adapter.checkpoint.name in subject.inert:
            continue
        # An expert that no token was routed to has no gradient; and beside whole modules or
        # magnitudes that are trained, the low-rank part may rightly be idle.
        routed = all(".experts." in f"{u.layer.name}." for u in dead)
        yield _finding(
            "layers-dead",
            "note" if routed or len(dead) == len(updates) else "warn",
            adapter,
            f"the update of {len(dead)} of {len(updates)} layers is exactly zero",
            "do these modules get gradients? Leave those that never run out of target_modules, "
            "and do not freeze them after get_peft_model",
            dead=len(dead),
            layers=len(updates),
            **_listed("tensors", zero_tensors(adapter, dead)),
        )


def rslora_lost(subject: Subject) -> Iterator[Finding]:
    """A configuration that does not tell whether alpha was over r or over its root."""
    silent = [a for a in subject.adapters if a.rank > 1 and _says_nothing_of_rslora(a)]
    with_it = [a.checkpoint.name for a in subject.adapters if a.use_rslora]
    if not silent:
        return
    last = silent[-1]
    yield _finding(
        "rslora-lost",
        "warn" if with_it else "note",
        None,
        "the rsLoRA flag may be lost (suspected): "
        + (f"{_few(with_it)} of this run set use_rslora, and " if with_it else "")
        + f"{_few([a.checkpoint.name for a in silent])} did not keep it; if training used it, the "
        f"update is {math.sqrt(last.rank):.3g} times as large",
        'if training used rsLoRA, write "use_rslora": true into adapter_config.json; else nothing '
        "(prime-rl itself never uses it, verl only where lora_adapter_path had it)",
        checkpoints=[a.checkpoint.name for a in silent],
        with_rslora=with_it,
        rank=last.rank,
        alpha=last.alpha,
        scale=last.alpha / last.rank,
        scale_if_rslora=last.alpha / math.sqrt(last.rank),
        **_listed("tensors", lora_tensors(last)),
    )


def peft_newer(subject: Subject) -> Iterator[Finding]:
    """A configuration from a newer PEFT than the installed, which drops what it does not know."""
    installed = subject.context.peft_version
    for adapter in subject.adapters:
        written = adapter.config.get("peft_version")
        if isinstance(written, str) and _version(written) > _version(installed):
            yield _finding(
                "peft-newer",
                "note",
                None,
                f"the adapter was saved by PEFT {written:.40}, and {installed} is installed: "
                "options that this one does not know are dropped when it is loaded",
                "pip install --upgrade peft, if replayed figures do not fit the log",
                saved_by=written[:40],
                installed=installed,
            )
            return  # one run, one PEFT


def base_missing(subject: Subject) -> Iterator[Finding]:
    """A base model that is not here or cannot be used: nothing can be replayed."""
    if fault := subject.context.base_fault:
        yield _finding(
            "base-missing",
            "note",
            None,
            f"scan cannot replay the run: {fault}",
            fault.hint,
            base=subject.adapters[-1].base_name[:200] or None,
        )


#: Every rule; a new one is a function above, an entry here, a test and a row in the README.
RULES: tuple[Callable[[Subject], Iterator[Finding]], ...] = (
    adapter_broken,
    adapter_sharded,
    adapter_inert,
    adapter_unchanged,
    keys_unmatched,
    nothing_trainable,
    layer_dominates,
    layers_dead,
    rslora_lost,
    peft_newer,
    base_missing,
)


def lint(
    adapters: tuple[Adapter, ...], context: LintContext, updates: Updates | None
) -> list[Finding]:
    """What every rule has to say of a run's adapters.

    Args:
        adapters: In step order.
        context: What the rules know beside them.
        updates: Their layers' updates, by checkpoint name; with None no value is looked at.
    """
    if not adapters:
        return []
    inert = {
        a.checkpoint.name: why_inert(a, updates[a.checkpoint.name] if updates else ())
        for a in adapters
    }
    subject = Subject(
        adapters=adapters,
        context=context,
        updates=updates,
        inert={name: why for name, why in inert.items() if why},
    )
    return [finding for rule in RULES for finding in rule(subject)]


def _before_training(group: Collection[Adapter], alike: Collection[str], subject: Subject) -> bool:
    """Whether checkpoints may be as they are because training had not begun.

    So at step 0; and where all before them are like them and one after is not: the learning rate
    of a warm-up starts at 0, and a first batch may hold no advantage.
    """
    names = [a.checkpoint.name for a in subject.adapters]
    last = max(names.index(a.checkpoint.name) for a in group)
    first_ones = all(name in alike for name in names[: last + 1])
    moved_after = any(name not in alike for name in names[last + 1 :])
    return all(a.checkpoint.step == 0 for a in group) or (first_ones and moved_after)


def _says_nothing_of_rslora(adapter: Adapter) -> bool:
    # verl's merger makes a configuration from the shapes: without a base, and with PEFT's default
    # of the flag.
    rebuilt = adapter.checkpoint.layout == "verl" and not adapter.base_name
    return "use_rslora" not in adapter.config or (rebuilt and not adapter.use_rslora)


def _version(text: str) -> tuple[int, ...]:
    """The leading numbers of a version; empty if there are none."""
    found = re.match(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _few(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(list(names)[:_SHOWN]) + more


def _listed(what: str, names: Collection[str]) -> dict[str, Any]:
    """The first names as evidence, and how many there are."""
    return {what: list(names)[:_SHOWN], f"n_{what}": len(names)}


def _finding(
    identity: str,
    level: Literal["error", "warn", "note"],
    adapter: Adapter | None,
    message: str,
    action: str,
    *,
    source: str = "the adapter's files",
    **evidence: Any,
) -> Finding:
    return Finding(
        id=identity,
        level=level,
        checkpoint=adapter.checkpoint.label if adapter else None,
        signal=None,
        message=message,
        evidence=evidence,
        action=action,
        source=source,
    )
