"""Whose fault a degenerate signal is: the run's, if it is the credit it trained with; else a note.

Stock trainers weight all tokens alike, so most runs use none of the signals that are measured
here, and what would be wrong with one is what a reader should know before using it: a note.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from arca_diag.attribution import Held, Judged
from arca_diag.degeneracy import DEGENERATE, level_of
from arca_diag.results import Finding, Measurement, Verdict, WhatIf
from arca_diag.verdict import INCONCLUSIVE, NO_SIGNAL

#: Where findings come from that are made anew when tables are judged again.
ROUNDING = "noise measured by replaying the same tokens rounded otherwise"
_SOURCE = "ARCA, arXiv 2606.00257v1, on signals that degenerate; the cuts are this tool's own"
_LESS_CONCENTRATED = (
    "weight tokens evenly (TRL: leave top_entropy_quantile at 1.0; verl and prime-rl: the stock "
    "loss), or by a signal that is in the middle here; see what_if in report.json"
)
#: Every finding that a signal can have, and what to do about it.
ACTIONS = {
    "credit-sparse": _LESS_CONCENTRATED,
    "credit-uniform": "it does what even credit does: drop it, or sharpen it (what_if in "
    "report.json has s = 2)",
    "credit-absent": "there is nothing to weight by: see why the signal is zero before using it",
    "credit-inconclusive": "replay more prompts (--groups, --fixed-groups)",
    "completions-short": "judge it on longer completions; below 5 tokens no concentration means "
    "anything",
    "numeric-noise": "replay in a higher precision (--dtype float32, or float64) before you "
    "believe any figure of this signal; as credit in training it would be noise at that precision",
    "credit-floor": "lower epsilon (--epsilon) well below the signal's mean, or do not use it: the "
    "rest is even credit",
    "sharpening-only": "train with s = 1, or say the power with the result",
    "credit-structural": "weight evenly, or by a signal that is in the middle: this one's "
    "construction zeroes every token at which entropy rises",
    "credit-inherited": "do not read it as what training learned: the reference gives the same "
    "weights; use divergence, kl_exact or the residual to see what the adapter changed",
    "credit-task-agnostic": "look at which tokens hold it (class_lift and position_lift in "
    "report.json); mask those tokens, or weight evenly",
}
_SAYS = {
    "completions-short": "most completions are too short to judge",
    "numeric-noise": "rounding alone gives {noise:.0%} of the signal",
    "credit-floor": "{floor_share:.0%} of the credit is epsilon, the same for every token",
    "sharpening-only": "the regime is the power's: {regime} at s = {sharpening:g}, {regime_at_1} "
    "at s = 1",
    "credit-structural": "its concentration is no more than its construction gives: its G^ less "
    "that of the same entropies in random order is {structural_excess:.2f}",
    "credit-inherited": "{inherited:.0%} of the credit is where the reference alone puts it",
    "credit-task-agnostic": "the {by} of a token, learned on other prompts, gives {share:.0%} of "
    "what sets it apart from even credit",
}


def credit_findings(
    judged: Judged,
    measurements: Iterable[Measurement],
    credit: str,
    sharpening: float,
    overruled: Mapping[int | str, str],
    inert: str = "adapter-inert",
) -> list[Finding]:
    """What is degenerate at each checkpoint, root cause first with its consequences folded.

    The view of a finding is on-policy where the checkpoint has completions of its own, else the
    fixed set.

    Args:
        judged: Verdicts and causes.
        measurements: For the figures that messages name.
        credit: What the run trained with: `uniform`, a signal, or `top_entropy:Q`.
        sharpening: The configured power: verdicts at other powers make no findings.
        overruled: Checkpoint -> id of a fault that makes all figures of it void.
        inert: Id of the finding that an adapter which changes nothing is.
    """
    figures = {
        (m.checkpoint, m.view, m.name, m.signal, m.sharpening): m
        for m in measurements
        if m.against is None
    }
    own = {v.checkpoint for v in judged.verdicts if v.view == "on-policy" and n_seen(v)}
    out: list[Finding] = []
    for verdict in judged.verdicts:
        view = "on-policy" if verdict.checkpoint in own else "fixed-set"
        if verdict.view != view or verdict.sharpening != sharpening:
            continue
        held = [h for h in judged.held if h.verdict is verdict]
        nothing = inert if any(h.id == "adapter-inert" for h in held) else None
        ratio = figures.get(
            (verdict.checkpoint, view, "effn_ratio", verdict.signal, verdict.sharpening)
        )
        out += _of_signal(
            verdict,
            [h for h in held if h.id != "adapter-inert"],
            None if ratio is None else ratio.value,
            declared=verdict.signal == credit,
            overruled=overruled.get(verdict.checkpoint, nothing),
        )
    return out


def quantile_of(credit: str) -> float | None:
    """Q of `top_entropy:Q`; None for any other credit."""
    name, _, quantile = credit.partition(":")
    return float(quantile) if name == "top_entropy" else None


def top_entropy_findings(
    ways: Iterable[WhatIf], credit: str, overruled: Mapping[int | str, str]
) -> list[Finding]:
    """What a run that trains on its most uncertain tokens alone leaves without credit.

    Its concentration is what was asked for and no fault. Completions none of whose tokens is
    trained are: a warning where surely more than half are so.
    """
    quantile = quantile_of(credit)
    found = [w for w in ways if quantile is not None and w.credit == f"top_entropy {quantile:g}"]
    out = []
    for way in found[:1]:  # on-policy, where there is one
        share = way.uncredited.value or 0.0
        low = way.uncredited.low or 0.0
        void = overruled.get(way.checkpoint)
        out.append(
            Finding(
                id="credit-sparse",
                level="warn" if low > 0.5 and way.n_clusters >= 8 and not void else "note",
                checkpoint=way.checkpoint,
                signal=None,
                message=f"the run's credit, {credit}, leaves {share:.0%} of completions without "
                "any trained token; that it is concentrated on the others was asked for",
                evidence={
                    "uncredited": way.uncredited.model_dump(),
                    "view": way.view,
                    "regime": way.regime,
                    "n_clusters": way.n_clusters,
                },
                caused_by=void,
                action="raise top_entropy_quantile (TRL), or leave it at 1.0",
                source="Wang et al., arXiv 2506.01939: only high-entropy tokens are trained",
            )
        )
    return out


def n_seen(verdict: Verdict) -> int:
    """Completions that were there, too short ones and those without a class among them."""
    return verdict.n_completions + sum(verdict.left_out.values())


def rounding_findings(judged: Judged, inert: str = "adapter-inert") -> list[Finding]:
    """An adapter whose residual is not zero and is no more than rounding would make it.

    A note at step 0, and before a warm-up's first real step, when everything after it has moved.
    """
    found: dict[int | str, Held] = {}
    residuals = [v for v in judged.verdicts if v.signal == "residual" and v.n_completions]
    moved = [v.checkpoint for v in residuals if "adapter-inert" not in v.causes]

    def begins(checkpoint: int | str) -> bool:
        if not isinstance(checkpoint, int) or not moved:
            return checkpoint == 0
        return checkpoint == 0 or all(isinstance(m, int) and m > checkpoint for m in moved)

    for held in judged.held:
        if held.id == "adapter-inert" and "residual_noise_share" in held.evidence:
            found.setdefault(held.verdict.checkpoint, held)
    return [
        Finding(
            id=inert,
            level="note" if begins(checkpoint) else "error",
            checkpoint=checkpoint,
            signal=None,
            message="the adapter changes nothing: its residual is what rounding alone makes "
            f"(noise is {held.evidence['residual_noise_share']:.0%} of it)",
            evidence=held.evidence,
            action="check that lora_B is not all but zero, the learning rate, and that the adapter "
            "was trainable (PeftModel.from_pretrained(..., is_trainable=True))",
            source=ROUNDING,
        )
        for checkpoint, held in found.items()
    ]


def _of_signal(
    verdict: Verdict,
    held: list[Held],
    effn_ratio: float | None,
    *,
    declared: bool,
    overruled: str | None,
) -> list[Finding]:
    """A chain: the first has the level, the others are its consequences and notes."""
    chain: list[tuple[str, str, dict[str, Any]]] = [
        (h.id, _because(verdict, h), h.evidence) for h in held
    ]
    if identity := DEGENERATE.get(verdict.regime):
        shares = {name: share.value for name, share in verdict.shares.items() if share.value}
        evidence: dict[str, Any] = {"shares": shares, "n_prompts": verdict.n_clusters}
        if effn_ratio is not None:
            evidence["effn_ratio"] = effn_ratio
        chain.append((identity, _regime_says(verdict, effn_ratio, declared), evidence))
    elif declared and verdict.regime == INCONCLUSIVE and not held and verdict.settled_by:
        evidence = {"clusters_more": verdict.settled_by.clusters_more}
        says = f"whether the run's credit is degenerate is not settled: {verdict.settled_by.reason}"
        chain.append(("credit-inconclusive", says, evidence))
    ids = [identity for identity, _, _ in chain]
    level = (
        "note" if overruled else level_of(verdict.regime, [h.id for h in held], declared=declared)
    )
    return [
        Finding(
            id=identity,
            level=level if place == 0 else "note",
            checkpoint=verdict.checkpoint,
            signal=verdict.signal,
            message=message,
            evidence=evidence
            | {
                "view": verdict.view,
                "regime": verdict.regime,
                "sharpening": verdict.sharpening,
                "without_ends": verdict.without_ends,
            },
            cause_of=ids[1:] if place == 0 else [],
            caused_by=overruled if place == 0 else ids[0],
            action=ACTIONS[identity],
            source=_SOURCE,
        )
        for place, (identity, message, evidence) in enumerate(chain)
    ]


def _because(verdict: Verdict, held: Held) -> str:
    known = dict(held.evidence)
    known["noise"] = next((v for k, v in known.items() if k.startswith("noise_share")), 0.0)
    known["inherited"] = 1 - known.get("inherited_tv", 0.0)
    known["share"] = next((v for k, v in known.items() if k.endswith("_explained")), 0.0)
    return f"{_named(verdict.signal)}: {_SAYS[held.id].format(**known)}"


def _regime_says(verdict: Verdict, effn_ratio: float | None, declared: bool) -> str:
    name, regime = _named(verdict.signal), verdict.regime
    lead = f"the run's credit, {name}," if declared else f"if you weighted by {name}, you"
    if regime == NO_SIGNAL:
        verb = "has" if declared else "would have"
        return f"{lead} {verb} nothing to weight by: it is exactly zero on every token"
    if DEGENERATE[regime] == "credit-sparse":
        many = "few tokens" if effn_ratio is None else one_in(effn_ratio)
        verb = "weights" if declared else "would be weighting"
        return f"{lead} {verb} {many} ({regime})"
    verb = "hardly tells" if declared else "would hardly tell"
    return f"{lead} {verb} tokens apart: it is near even credit ({regime})"


def one_in(effn_ratio: float) -> str:
    """An effective-token ratio in words: .08 is "one token in 12"."""
    return (
        f"one token in {1 / effn_ratio:.0f}" if effn_ratio < 0.4 else f"{effn_ratio:.0%} of tokens"
    )


def _named(signal: str) -> str:
    return signal.replace("_", " ")
