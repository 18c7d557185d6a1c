"""Judging in one place: from the tables of a result to figures, verdicts, causes and findings.

Needs no model, so that a saved result is judged again by other cuts, credit or sharpening with
the same code that judged it first.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from arca_diag import attribution, causes, crediting, faults, findings, tables, verdict
from arca_diag.config import ScanConfig
from arca_diag.measurements import measure
from arca_diag.measurements.evidence import Evidence
from arca_diag.onset import find_onsets
from arca_diag.results import (
    Fidelity,
    Finding,
    Measurement,
    Onset,
    Report,
    Skipped,
    Verdict,
    WhatIf,
)
from arca_diag.whatif import what_if


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the tables say.

    Attributes:
        frames: The tables, with weights and trajectories.
        measurements: Every figure.
        judged: Regimes and causes with their evidence, and what could not be asked.
        onsets: When credit went to one side.
        what_if: Credit given in other ways.
    """

    frames: tables.Tables
    measurements: list[Measurement]
    judged: attribution.Judged
    onsets: list[Onset]
    what_if: list[WhatIf]

    @property
    def verdicts(self) -> list[Verdict]:
        """Regimes with their causes."""
        return self.judged.verdicts

    @property
    def skipped(self) -> list[Skipped]:
        """What could not be asked, and what it needs."""
        return self.judged.skipped

    def parts(self) -> dict[str, Any]:
        """Those parts of a report that hold what was judged, findings aside."""
        return {
            "measurements": self.measurements,
            "verdicts": self.verdicts,
            "onsets": self.onsets,
            "what_if": self.what_if,
        }


def judge(
    frames: tables.Tables,
    members: pd.DataFrame,
    steps: Mapping[str, int | None],
    config: ScanConfig,
    credit: str = "uniform",
) -> Judgement:
    """Weigh, measure, name regimes, and ask what made them so.

    Args:
        frames: The tables; weights and trajectories in them are made anew.
        members: As from `tables.memberships` or `tables.saved_memberships`.
        steps: Name -> step of every measured checkpoint.
        config: The judging options are its.
        credit: What the run trained with.
    """
    cuts = config.cuts
    tokens, trajectories = crediting.judge(
        frames.tokens,
        members,
        frames.rollouts,
        epsilon=config.epsilon,
        sharpening=config.sharpening,
        cuts=cuts,
    )
    frames = dataclasses.replace(frames, tokens=tokens, trajectories=trajectories)
    evidence = Evidence(
        tokens=tokens,
        trajectories=trajectories,
        rollouts=frames.rollouts,
        noise=frames.noise,
        gradients=frames.gradients,
        steps=steps,
        sharpening=config.sharpening,
        epsilon=config.epsilon,
        seed=config.seed,
        cuts=cuts,
    )
    measurements = measure(evidence)
    regimes = verdict.judge_regimes(trajectories, frames.rollouts, cuts)
    judged = attribution.judge_causes(regimes, measurements, cuts)
    drowned = {
        (verdict.checkpoint, verdict.view, verdict.signal): verdict.settled_by.reason
        for regime, verdict in zip(regimes, judged.verdicts, strict=True)
        if verdict.settled_by and verdict.settled_by != regime.settled_by
    }  # what rounding may have made has no onset, and no regime if given in another way
    unsure = {signal for _, view, signal in drowned if view == "fixed-set"}
    return Judgement(
        frames=frames,
        measurements=measurements,
        judged=judged,
        onsets=[
            onset
            for onset in find_onsets(trajectories, frames.rollouts, steps, config.sharpening, cuts)
            if onset.signal not in unsure
        ],
        what_if=what_if(evidence, faults.quantile_of(credit), drowned),
    )


def again(
    before: Report, saved: tables.Tables, config: ScanConfig, asked: Mapping[str, object]
) -> tuple[Report, tables.Tables]:
    """A finished report under other judging options, and its tables; without a model.

    Args:
        before: The finished one.
        saved: Its tables.
        config: The judging options are its.
        asked: The same options with what they resolved to, as the report keeps them.
    """
    steps = {c.name: c.step for c in before.run.checkpoints if c.measured}
    members = tables.saved_memberships(saved.trajectories)
    judgement = judge(saved, members, steps, config, str(asked["credit"]))
    provenance = before.provenance.model_copy(
        update={"options": before.provenance.options | dict(asked), "seed": config.seed}
    )
    told = all_findings(
        judgement,
        before.findings,
        before.replay_fidelity,
        credit=str(asked["credit"]),
        sharpening=config.sharpening,
        reference=before.reference.kind,
    )
    report = before.model_copy(
        update={
            "provenance": provenance,
            **judgement.parts(),
            "findings": told,
            "skipped": still_skipped(before.skipped, judgement),
            "thresholds": list(config.cuts),
        }
    )
    return report, judgement.frames


def all_findings(
    judgement: Judgement,
    others: Iterable[Finding],
    fidelity: Iterable[Fidelity],
    *,
    credit: str,
    sharpening: float,
    reference: str,
) -> list[Finding]:
    """Those of the run and its files, and those of its signals folded under them.

    Args:
        judgement: As from `judge`.
        others: Findings about adapters, log, replay and inputs; those about signals that an
            earlier judgement left among them are made anew.
        fidelity: Where the replay is not the run, no signal of the checkpoint is at fault.
        credit: What the run trained with.
        sharpening: The configured power.
        reference: Kind of the reference: measured from another adapter, one that changes nothing
            is unchanged.
    """
    inert = "adapter-inert" if reference in ("adapter-off", "base") else "adapter-unchanged"
    void: dict[int | str, str] = {
        int(f.checkpoint) if f.checkpoint.isdigit() else f.checkpoint: "replay-mismatch"
        for f in fidelity
        if f.status == "fail"
    }
    kept = [
        f.model_copy(update={"cause_of": []})
        for f in others
        if f.id not in faults.ACTIONS and f.source != faults.ROUNDING
    ]
    return findings.together(
        kept,
        faults.rounding_findings(judgement.judged, inert),
        faults.top_entropy_findings(judgement.what_if, credit, void),
        faults.credit_findings(
            judgement.judged, judgement.measurements, credit, sharpening, void, inert
        ),
    )


def still_skipped(before: Iterable[Skipped], judgement: Judgement) -> list[Skipped]:
    """What an earlier judgement could not ask beside the causes, and what this one cannot."""
    asked = {identity for identity, _ in causes.CAUSES}
    return [*(s for s in before if s.id not in asked), *judgement.skipped]
