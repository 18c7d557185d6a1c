"""Small reports made by hand, so that what the gate says of them can be known beforehand."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arca_diag.gate.loading import resolve_policy
from arca_diag.gate.outcome import GateResult, RuleOutcome
from arca_diag.gate.policy import Policy
from arca_diag.gating import run_gate
from arca_diag.results import Finding, Measurement, Report, Verdict
from arca_diag.signals import SIGNAL_NAMES

CLASSES = ("uniform", "leaning-uniform", "middle", "leaning-sparse", "sparse", "no-signal")


def figure(name: str = "gini_corrected", value: float | None = 0.5, **of: Any) -> Measurement:
    """One figure; an interval of a tenth around it unless told otherwise."""
    known: dict[str, Any] = {
        "checkpoint": 20,
        "view": "on-policy",
        "signal": "surprisal",
        "sharpening": 1.0,
        "against": None,
        "name": name,
        "value": value,
        "low": None if value is None else value - 0.05,
        "high": None if value is None else value + 0.05,
        "n_clusters": 12,
        "n_groups": 12,
        "n_completions": 96,
        "n_tokens": 2400,
        "reason": None if value is not None else "nothing was measured",
    }
    return Measurement(**known | of)


def verdict(signal: str, regime: str = "middle", **of: Any) -> Verdict:
    """One verdict, all completions in the class of its regime."""
    inside = "middle" if regime == "inconclusive" else regime
    shares = {
        name: {"value": 1.0, "low": 0.8, "high": 1.0}
        if name == inside
        else {"value": 0.0, "low": 0.0, "high": 0.2}
        for name in CLASSES
    }
    settled = (
        {"clusters_more": 5, "reason": "too few prompts"} if regime == "inconclusive" else None
    )
    known: dict[str, Any] = {
        "checkpoint": 20,
        "view": "on-policy",
        "signal": signal,
        "sharpening": 1.0,
        "regime": regime,
        "without_ends": regime,
        "shares": shares,
        "left_out": {},
        "disagree": 0.0,
        "n_clusters": 12,
        "n_groups": 12,
        "n_completions": 96,
        "n_distinct": 90,
        "n_tokens": 2400,
        "causes": [],
        "settled_by": settled,
    }
    return Verdict(**known | of)


def finding(identity: str, level: str = "error", **of: Any) -> Finding:
    """One finding of the run."""
    known: dict[str, Any] = {
        "id": identity,
        "level": level,
        "checkpoint": None,
        "signal": None,
        "message": f"what {identity} says",
        "evidence": {},
        "action": f"mend {identity}",
        "source": "a test",
    }
    return Finding(**known | of)


def report(
    *,
    steps: tuple[int, ...] = (10, 20),
    credit: str = "uniform",
    findings: tuple[Finding, ...] = (),
    verdicts: tuple[Verdict, ...] = (),
    figures: tuple[Measurement, ...] = (),
    fidelity: str = "pass",
    unmeasured: tuple[int, ...] = (),
    evidence: Mapping[str, int] | None = None,
    **parts: Any,
) -> Report:
    """A healthy run of two checkpoints, all signals in the middle, but for what is given."""
    given = {(v.checkpoint, v.view, v.signal): v for v in verdicts}
    all_verdicts = [
        given.get((step, view, signal), verdict(signal, checkpoint=step, view=view))
        for step in steps
        if step not in unmeasured
        for view in ("on-policy", "fixed-set")
        for signal in SIGNAL_NAMES
    ]
    base = [
        made
        for step in steps
        if step not in unmeasured
        for view in ("on-policy", "fixed-set")
        for made in (
            figure("gini", checkpoint=step, view=view, **(evidence or {})),
            figure(
                "groups_without_spread",
                0.05,
                checkpoint=step,
                view=view,
                signal=None,
                sharpening=None,
            ),
        )
    ]
    known: dict[str, Any] = {
        "schema_version": 1,
        "tool": {"name": "arca-diag", "version": "0.1.0"},
        "status": "complete",
        "provenance": {
            "started_at": "2026-01-01T00:00:00+00:00",
            "seconds": 1.0,
            "reused_passes": 0,
            "batch_tokens": 4096,
            "prefix_sharing": True,
            "versions": {},
            "device": "cpu",
            "dtype": "float32",
            "seed": 0,
            "options": {
                "credit": credit,
                "credit_source": "a test",
                "sharpening": 1.0,
                "epsilon": 1e-8,
                "seed": 0,
                "thresholds": None,
                "file_thresholds": None,
            },
            "base": {"name": "base", "sha256": "b" * 64, "revision": None},
            "inputs": {},
        },
        "run": {
            "name": "hand-made",
            "framework": "trl",
            "framework_version": None,
            "recognised_by": "a test",
            "steps": steps[-1] if steps else None,
            "temperature": 1.0,
            "temperature_source": "given",
            "checkpoints": [
                {"name": f"checkpoint-{s}", "step": s, "measured": s not in unmeasured}
                for s in steps
            ],
        },
        "adapter": {
            "kind": "lora",
            "init": "true",
            "rank": 4,
            "alpha": 8.0,
            "target_modules": ["q_proj"],
            "use_dora": False,
            "use_rslora": False,
        },
        "reference": {"kind": "adapter-off", "reason": "a test"},
        "rollouts": {
            "source": "a test",
            "selected": 96,
            "groups": 12,
            "clusters": 12,
            "distinct": 90,
            "tokens": 2400,
            "ids_exact": True,
            "found": 96,
            "eval_excluded": 0,
            "duplicates_dropped": 0,
            "lines_skipped": 0,
            "left_out": {},
            "guessed_prompts": 0,
            "step_source": "given",
            "group_source": None,
            "unknown_fields": {},
            "cut_off": 0,
            "cut_off_unknown": 0,
            "steps": list(steps),
            "fixed_set": ["a"],
        },
        "replay_fidelity": [
            {"checkpoint": str(s), "status": fidelity, "figures": {}, "reason": "a test"}
            for s in steps
        ],
        "measurements": [*base, *figures],
        "verdicts": all_verdicts,
        "findings": list(findings),
        "thresholds": [],
        "files": {"report.json": None},
    }
    return Report.model_validate(known | parts)


def policy(table: Mapping[str, Any] | None = None, **settings: Any) -> Policy:
    """A policy as a file gives it."""
    return resolve_policy([("arca.toml", {**(table or {}), **settings})]).policy


def gated(made: Report, table: Mapping[str, Any] | None = None, **settings: Any) -> GateResult:
    """A report, held to a policy."""
    return run_gate(made, policy(table, **settings))


def rule_of(result: GateResult, identity: str) -> RuleOutcome:
    """The outcome of one rule."""
    (found,) = (r for r in result.rules if r.id == identity)
    return found


def write(folder: Path, made: Report) -> Path:
    """A result folder with nothing but the report."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(made.to_json(), "utf-8")
    return folder


def run_with_result(root: Path, **parts: object) -> tuple[Path, Report]:
    """A run of two checkpoints, and where a scan leaves it the result that is of them."""
    inputs = {}
    for step in (10, 20):
        folder = root / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text("{}", "utf-8")
        (folder / "adapter_model.safetensors").write_bytes(b"weights %d" % step)
        weights = hashlib.sha256(b"weights %d" % step)
        inputs[folder.name] = weights.hexdigest()
        inputs[f"{folder.name}/adapter_config.json"] = hashlib.sha256(b"{}").hexdigest()
    document = json.loads(report().to_json())
    document["provenance"]["inputs"] = inputs
    made = Report.from_json(json.dumps(document | parts))
    return write(root / "arca-diag", made), made
