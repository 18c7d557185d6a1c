"""Facts that a reader must know, each with its evidence and what to do about it."""

from arca_diag.errors import CheckpointError
from arca_diag.inputs.gather import Inputs
from arca_diag.inputs.runs import Checkpoint
from arca_diag.inputs.selection import Selection
from arca_diag.results import Finding, Verdict

_FORMATS = "what trainers write; see the README"


def input_findings(inputs: Inputs, selection: Selection) -> list[Finding]:
    """What about the inputs limits the figures."""
    out = [_unreadable(checkpoint, error) for checkpoint, error in inputs.unreadable.items()]
    if inputs.temperature_source.startswith("assumed"):
        out.append(
            Finding(
                id="temperature-assumed",
                level="warn",
                checkpoint=None,
                signal=None,
                message="the sampling temperature is not recorded, and 1 was assumed",
                evidence={"temperature": inputs.temperature},
                action="give it with --temperature: trainers divide logits by it",
                source=_FORMATS,
            )
        )
    chosen = [r for g in selection.groups() for r in g.rollouts]
    guessed = sum(not r.ids_exact for r in chosen)
    if guessed:
        out.append(
            Finding(
                id="ids-retokenised",
                level="warn",
                checkpoint=None,
                signal=None,
                message=f"{guessed} of {len(chosen)} completions were tokenised again from text: "
                "their ids may differ from those that were sampled, and no end token is scored",
                evidence={"retokenised": guessed, "completions": len(chosen)},
                action="train with the reward function arca_diag.trl.recorder(), which records "
                "exact ids",
                source=_FORMATS,
            )
        )
    for adapter in inputs.adapters:
        checkpoint = adapter.checkpoint
        if checkpoint.step is not None and not selection.own[checkpoint.name]:
            out.append(
                Finding(
                    id="no-own-rollouts",
                    level="note",
                    checkpoint=checkpoint.label,
                    signal=None,
                    message="no completion is known to be sampled within "
                    f"{selection.window} steps of this checkpoint: no on-policy figures",
                    evidence={"window": selection.window},
                    action="give the completions their `step`; train with logging_steps=1; or "
                    "widen --window",
                    source=_FORMATS,
                )
            )
        if (checkpoint.path / "ref" / "adapter_config.json").is_file():
            out.append(
                Finding(
                    id="reference-uncertain",
                    level="warn",
                    checkpoint=checkpoint.label,
                    signal=None,
                    message="training kept a reference adapter (ref/), and the replay took the "
                    "base with no adapter as the reference",
                    evidence={"found": "ref/"},
                    action="read residual, divergence and kl_exact as distances from the base",
                    source="TRL >= 0.27 saves the adapter a run continued from as ref/",
                )
            )
    return out


def inert_findings(verdicts: list[Verdict]) -> list[Finding]:
    """An adapter whose residual is exactly zero on every token does nothing."""
    found: dict[int | str, Verdict] = {}
    for verdict in verdicts:
        if verdict.signal == "residual" and verdict.regime == "no-signal":
            found.setdefault(verdict.checkpoint, verdict)
    return [
        Finding(
            id="adapter-inert",
            level="note" if label == 0 else "error",
            checkpoint=label,
            signal=None,
            message=f"the adapter changes nothing: its residual is exactly zero on all "
            f"{verdict.n_tokens:,} tokens",
            evidence={"n_tokens": verdict.n_tokens, "n_completions": verdict.n_completions},
            action="check that lora_B is not all zero, lora_alpha is not 0, and that the adapter "
            "was trainable (PeftModel.from_pretrained(..., is_trainable=True))",
            source="an exact zero is a fact, whatever the threshold",
        )
        for label, verdict in found.items()
    ]


def _unreadable(checkpoint: Checkpoint, error: CheckpointError) -> Finding:
    return Finding(
        id="checkpoint-unreadable",
        level="error",
        checkpoint=checkpoint.label,
        signal=None,
        message=f"not measured: {error}",
        evidence={"folder": checkpoint.name},
        action=error.hint or "copy or save the checkpoint again",
        source=_FORMATS,
    )
