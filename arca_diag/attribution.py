"""Which causes hold for which verdict, asked together so that many questions find no more.

A cause holds where the interval of its figure is past its cut, not the point. Checkpoints times
signals are many questions: within one cause and view the p-values are held by Holm's procedure
together (`family`), so that a call anywhere among them is wrong as rarely as one alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from arca_diag.causes import CAUSES, Case, Key, Test
from arca_diag.diagnostics.multiplicity import holm
from arca_diag.results import Measurement, SettledBy, Skipped, Verdict
from arca_diag.thresholds import Cuts
from arca_diag.verdict import INCONCLUSIVE, NO_SIGNAL

#: Asked whatever the noise is.
_OF_NOISE = ("adapter-inert", "completions-short", "numeric-noise")
#: Where one of these holds no other cause of the signal is asked for: its figures say nothing.
_SILENCING = ("adapter-inert", "numeric-noise")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A cause that holds for a signal at a checkpoint in a view."""

    id: str
    verdict: Verdict
    evidence: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Verdicts with their causes, the evidence of each, and what could not be asked."""

    verdicts: list[Verdict]
    held: list[Held]
    skipped: list[Skipped]


def judge_causes(
    verdicts: Iterable[Verdict], measurements: Iterable[Measurement], cuts: Cuts
) -> Judged:
    """Every cause of every verdict, root cause first.

    A signal whose noise is not surely below its cut is not judged: its regime becomes
    `inconclusive`, with what would settle it.

    Args:
        verdicts: Regimes, as from `verdict.judge_regimes`.
        measurements: As from `measurements.measure`, of the same tables.
        cuts: Those in force.
    """
    verdicts = list(verdicts)
    figures: dict[Key, Measurement] = {
        (m.checkpoint, m.view, m.name, m.signal, m.sharpening, m.against): m for m in measurements
    }
    at = {(v.checkpoint, v.view, v.signal, v.sharpening): v for v in verdicts}
    cases = [
        Case(
            verdict=v,
            plain=at[v.checkpoint, v.view, v.signal, 1.0],
            residual=at.get((v.checkpoint, v.view, "residual", 1.0)),
            figures=figures,
            cuts=cuts,
        )
        for v in verdicts
    ]
    causes: list[list[Held]] = [[] for _ in cases]
    skipped: dict[str, Skipped] = {}
    for identity, rule in CAUSES:
        asked: dict[str, list[tuple[int, Test]]] = {}
        for place, case in enumerate(cases):
            if any(held.id in _SILENCING for held in causes[place]):
                continue
            if identity not in _OF_NOISE and _drowned(case) is not None:
                continue
            found = rule(case)
            if isinstance(found, Test):
                asked.setdefault(case.verdict.view, []).append((place, found))
            elif found is not None:
                missing = _skipped(identity, case.verdict, found)
                skipped[missing.model_dump_json()] = missing  # once, whatever the powers
        for view, tests in asked.items():
            # What is asked of one figure for several signals is one question.
            questions = [test.figure or test for _, test in tests]
            unique = {
                id(question): test.p for question, (_, test) in zip(questions, tests, strict=True)
            }
            adjusted = dict(zip(unique, holm(np.array(list(unique.values()))), strict=True))
            for question, (place, test) in zip(questions, tests, strict=True):
                p = adjusted[id(question)]
                if p <= test.alpha:
                    family = f"{identity}, {view}: {len(unique)} tests"
                    causes[place].append(
                        Held(
                            id=identity,
                            verdict=cases[place].verdict,
                            evidence=test.evidence | {"p_holm": float(p), "family": family},
                        )
                    )
    judged = [
        _judged(case, [held.id for held in held_here])
        for case, held_here in zip(cases, causes, strict=True)
    ]
    for verdict, held_here in zip(judged, causes, strict=True):
        held_here[:] = [
            Held(id=held.id, verdict=verdict, evidence=held.evidence) for held in held_here
        ]
    return Judged(
        verdicts=judged,
        held=[held for held_here in causes for held in held_here],
        skipped=list(skipped.values()),
    )


def _judged(case: Case, causes: list[str]) -> Verdict:
    """The verdict with its causes, and without a regime where rounding may have made it."""
    verdict = case.verdict
    why = _drowned(case)
    if why is None:
        return verdict.model_copy(update={"causes": causes})
    settled_by = SettledBy(clusters_more=None, reason=why)
    return verdict.model_copy(
        update={
            "causes": causes,
            "regime": INCONCLUSIVE,
            "without_ends": INCONCLUSIVE,
            "side": None,
            "settled_by": settled_by,
        }
    )


def _drowned(case: Case) -> str | None:
    """Why rounding may have made the regime; zeros that float32 has too are facts."""
    if case.verdict.n_completions == 0:
        return None
    if case.verdict.regime == NO_SIGNAL and not case.hidden_by_precision():
        return None
    worst = case.noise(case.verdict.signal)
    if worst is None or worst.value is None:
        return None
    if case.surely_quiet(worst):
        return None
    return (
        f"rounding is {worst.value:.0%} of the signal (against {worst.against}), and not surely "
        f"below {case.cuts['noise-share']:.0%}: replay in a higher precision (--dtype)"
    )


def _skipped(identity: str, verdict: Verdict, reason: str) -> Skipped:
    return Skipped(
        id=identity,
        checkpoint=verdict.checkpoint,
        view=verdict.view,
        signal=verdict.signal,
        reason=reason,
    )
