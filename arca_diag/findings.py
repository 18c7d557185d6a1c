"""Facts that a reader must know, each with its evidence and what to do about it."""

from collections.abc import Iterable
from typing import Any, Literal

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.base import Base
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.reference import Reference
from arca_diag.inputs.rollouts.record import Notes
from arca_diag.inputs.runs import Checkpoint, Refused
from arca_diag.inputs.selection import Selection
from arca_diag.results import Finding, Verdict

_FORMATS = "what trainers write; see the README"


def input_findings(inputs: Inputs, selection: Selection) -> list[Finding]:
    """What about the inputs limits a scan's figures."""
    chosen = [r for g in selection.groups() for r in g.rollouts]
    return [
        *(unreadable(checkpoint, error) for checkpoint, error in inputs.unreadable.items()),
        *refused_findings(inputs.run.refused),
        *ignored_findings(inputs.run.ignored),
        *base_findings(inputs.base),
        *reference_findings(inputs.reference),
        *temperature_findings(inputs.temperature, inputs.temperature_source),
        *_generated(inputs),
        *rollout_findings(
            inputs.census.notes,
            retokenised=sum(not r.ids_exact for r in chosen),
            guessed_prompts=sum(r.guessed_prompt for r in chosen),
            completions=len(chosen),
        ),
        *_no_own_rollouts(inputs, selection),
    ]


def unreadable(checkpoint: Checkpoint, error: CheckpointError) -> Finding:
    """A checkpoint that was not measured."""
    return _finding(
        "checkpoint-unreadable",
        "error",
        f"not measured: {error}",
        {"folder": checkpoint.name},
        error.hint or "copy or save the checkpoint again",
        checkpoint=checkpoint.label,
    )


def refused_findings(refused: Iterable[Refused]) -> list[Finding]:
    """Saved states that hold no adapter."""
    return [
        _finding(
            "checkpoint-sharded",
            "warn",
            f"{state.name} holds no adapter: {state.reason}",
            {"folder": state.name},
            state.hint,
            checkpoint=state.name if state.step is None else state.step,
        )
        for state in refused
    ]


def ignored_findings(ignored: Iterable[str]) -> list[Finding]:
    """Files that would have said more of the run."""
    return [
        _finding(
            "file-unreadable",
            "warn",
            f"left out: {why}",
            {},
            "copy it again, or remove it if no trainer of yours wrote it",
        )
        for why in ignored
    ]


def base_findings(base: Base | None) -> list[Finding]:
    """A base in other precision than the one that was trained on."""
    if base is None or not base.stands_for:
        return []
    if base.quantize == "4bit":
        return [
            _finding(
                "base-precision-mismatch",
                "note",
                f"the adapter was trained on {base.stands_for}, and its 16-bit original "
                f"{base.name} was quantised to 4 bits here: near to it, and not its very weights",
                {"trained_on": base.stands_for, "replayed_on": base.name},
                "give the quantised base with --base to replay what was trained",
            )
        ]
    return [
        _finding(
            "base-precision-mismatch",
            "warn",
            f"the adapter was trained on {base.stands_for}, quantised to 4 bits, and its 16-bit "
            f"original {base.name} stands in for it: another model, if a near one",
            {"trained_on": base.stands_for, "replayed_on": base.name},
            "give the quantised base with --base to replay what was trained, or --quantize 4bit "
            "to come near to it",
        )
    ]


def reference_findings(reference: Reference) -> list[Finding]:
    """A reference that is not known to be the run's."""
    if reference.uncertain is None:
        return []
    return [
        _finding(
            "reference-uncertain",
            "warn",
            f"the reference may not be the run's: {reference.uncertain}",
            {"kind": reference.kind},
            "name it with --reference; until then read residual, divergence and kl_exact as "
            "distances from the one used",
        )
    ]


def temperature_findings(temperature: float, source: str) -> list[Finding]:
    """A temperature that nothing recorded."""
    if not source.startswith("assumed"):
        return []
    return [
        _finding(
            "temperature-assumed",
            "warn",
            "the sampling temperature is not recorded, and 1 was assumed",
            {"temperature": temperature},
            "give it with --temperature: trainers divide logits by it",
        )
    ]


def rollout_findings(
    notes: Notes, *, retokenised: int, guessed_prompts: int, completions: int
) -> list[Finding]:
    """What about the completions limits the figures."""
    out = []
    if retokenised:
        out.append(
            _finding(
                "ids-retokenised",
                "warn",
                f"{retokenised:,} of {completions:,} completions are text and are tokenised again: "
                "their ids may differ from those that were sampled, and no end token is scored",
                {"retokenised": retokenised, "completions": completions},
                "with TRL, train with the reward function arca_diag.trl.recorder(), which records "
                "exact ids; else give canonical JSONL with completion_ids (--rollouts)",
            )
        )
    if guessed_prompts:
        out.append(
            _finding(
                "prompts-guessed",
                "warn",
                f"the prompts of {guessed_prompts:,} of {completions:,} completions are put "
                "together again, from a dump that lost their special tokens or by a template that "
                "writes today's date: they may differ from those of the training",
                {"guessed": guessed_prompts, "completions": completions},
                "hand the completions over as canonical JSONL with prompt_ids (--rollouts)",
            )
        )
    if notes.eval_excluded:
        out.append(
            _finding(
                "rollouts-evaluation",
                "note",
                f"{notes.eval_excluded:,} completions were sampled by an evaluation and are left "
                "out",
                {"eval_excluded": notes.eval_excluded},
                "to keep the completions of these steps, evaluate in a run of its own: the trainer "
                "writes those of an evaluation over those of training",
            )
        )
    for why, count in sorted(notes.left_out.items()):
        out.append(
            _finding(
                "completions-left-out",
                "warn",
                f"{count:,} completions are left out: {why}",
                {"left_out": count},
                "record token ids and masks (canonical JSONL), or read the figures as those of "
                "the rest",
            )
        )
    if not notes.step_source:
        out.append(
            _finding(
                "steps-unknown",
                "note",
                "nothing says which policy sampled the completions: they serve the fixed set alone",
                {},
                "give every completion its `step`",
            )
        )
    return out


def missing_findings(error: ArcaError, *, absent: bool) -> list[Finding]:
    """Completions that are not there, or cannot be read."""
    return [
        _finding(
            "rollouts-missing" if absent else "rollouts-unreadable",
            "warn" if absent else "error",
            str(error),
            {},
            error.hint,
        )
    ]


def inert_findings(verdicts: list[Verdict], reference: Reference) -> list[Finding]:
    """A residual that is exactly zero on every token.

    Measured from the base, the adapter does nothing; from another adapter, it equals that one.
    """
    found: dict[int | str, Verdict] = {}
    moved: set[int | str] = set()
    for verdict in verdicts:
        if verdict.signal == "residual" and verdict.regime == "no-signal":
            found.setdefault(verdict.checkpoint, verdict)
        elif verdict.signal == "residual":
            moved.add(verdict.checkpoint)

    def level(label: int | str) -> Literal["error", "note"]:
        # Before a warm-up's first real step nothing has moved, and everything after it has.
        begins = isinstance(label, int) and all(isinstance(m, int) and m > label for m in moved)
        return "note" if label == 0 or (moved and begins) else "error"

    if reference.adapters:
        return [
            _finding(
                "adapter-unchanged",
                # What a user names may be this very checkpoint, to measure the way from it.
                "note" if reference.kind == "path" else level(label),
                "the policy equals its reference adapter: the residual is exactly zero on all "
                f"{verdict.n_tokens:,} tokens",
                {"n_tokens": verdict.n_tokens, "n_completions": verdict.n_completions},
                "was the adapter that was trained the one that was saved, and was it trainable "
                "(PeftModel.from_pretrained(..., is_trainable=True))?",
                checkpoint=label,
                source="an exact zero is a fact, whatever the threshold",
            )
            for label, verdict in found.items()
        ]
    return [
        _finding(
            "adapter-inert",
            level(label),
            "the adapter changes nothing: its residual is exactly zero on all "
            f"{verdict.n_tokens:,} tokens",
            {"n_tokens": verdict.n_tokens, "n_completions": verdict.n_completions},
            "check that lora_B is not all zero, lora_alpha is not 0, and that the adapter was "
            "trainable (PeftModel.from_pretrained(..., is_trainable=True))",
            checkpoint=label,
            source="an exact zero is a fact, whatever the threshold",
        )
        for label, verdict in found.items()
    ]


def together(*lists: Iterable[Finding]) -> list[Finding]:
    """All findings, worst first, and one of those that say the same of one checkpoint.

    An inert adapter, or one that equals its reference, is seen in its tensors and again in its
    residual.
    """
    kept: dict[tuple[str, object], Finding] = {}
    rest = []
    for finding in (f for found in lists for f in found):
        if finding.id in ("adapter-inert", "adapter-unchanged"):
            before = kept.setdefault((finding.id, finding.checkpoint), finding)
            if before is not finding:
                evidence = finding.evidence | before.evidence
                kept[finding.id, finding.checkpoint] = before.model_copy(
                    update={"evidence": evidence}
                )
        else:
            rest.append(finding)
    order = ("error", "warn", "note")
    return folded(sorted([*kept.values(), *rest], key=lambda f: order.index(f.level)))


def folded(findings: list[Finding]) -> list[Finding]:
    """The findings, each with those of its checkpoint that say it caused them."""
    consequences: dict[tuple[str, object], list[str]] = {}
    for finding in findings:
        if finding.caused_by is not None:
            consequences.setdefault((finding.caused_by, finding.checkpoint), []).append(finding.id)
    return [
        f
        if f.signal is not None
        else f.model_copy(
            update={
                "cause_of": list(
                    dict.fromkeys([*f.cause_of, *consequences.get((f.id, f.checkpoint), [])])
                )
            }
        )
        for f in findings
    ]


def _generated(inputs: Inputs) -> list[Finding]:
    if not inputs.prompts:
        return []
    return [
        _finding(
            "rollouts-generated",
            "note",
            f"{len(inputs.census.entries):,} completions were sampled here from the checkpoints, "
            f"to the {len(inputs.prompts):,} prompts given: they are not the run's own, which "
            "--prompts leaves aside if there are any",
            {"completions": len(inputs.census.entries), "prompts": len(inputs.prompts)},
            "train with log_completions=True and arca_diag.trl.recorder() to measure the run's own",
        )
    ]


def _no_own_rollouts(inputs: Inputs, selection: Selection) -> list[Finding]:
    return [
        _finding(
            "no-own-rollouts",
            "note",
            f"no completion is known to be sampled within {selection.window} steps of this "
            "checkpoint: no on-policy figures",
            {"window": selection.window},
            "give the completions their `step`; train with logging_steps=1; or widen --window",
            checkpoint=adapter.checkpoint.label,
        )
        for adapter in inputs.adapters
        if adapter.checkpoint.step is not None and not selection.own[adapter.checkpoint.name]
    ]


def _finding(
    identity: str,
    level: Literal["error", "warn", "note"],
    message: str,
    evidence: dict[str, Any],
    action: str,
    *,
    checkpoint: int | str | None = None,
    source: str = _FORMATS,
) -> Finding:
    return Finding(
        id=identity,
        level=level,
        checkpoint=checkpoint,
        signal=None,
        message=message,
        evidence=evidence,
        action=action,
        source=source,
    )
