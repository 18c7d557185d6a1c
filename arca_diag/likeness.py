"""What two results are of, side by side: what must be equal, and what is said where it is not."""

import hashlib
import json
from typing import Any

from arca_diag.results import Report
from arca_diag.thresholds import DEFAULT


def measured_by(report: Report) -> dict[str, str | float | None]:
    """What moves every figure: with another of these, results measure different things."""
    provenance, options = report.provenance, report.provenance.options
    return {
        "base": _text(provenance.base.get("sha256")),
        "dtype": provenance.dtype,
        "temperature": report.run.temperature,
        "reference": report.reference.kind,
        "epsilon": options.get("epsilon"),
    }


def made_of(report: Report) -> dict[str, str | None]:
    """What figures are from, and by which version and cuts they were made."""
    cuts = other_cuts(report)
    return {
        "tool version": report.tool.get("version"),
        "rollouts": report.rollouts.source,
        "fixed set": _digest(report.rollouts.fixed_set),
        "completion files": _digest(_completion_files(report.provenance.inputs)),
        "cuts": _digest([f"{cut} {value:g}" for cut, value in cuts.items()]) if cuts else None,
    }


def other_cuts(report: Report) -> dict[str, float]:
    """The cuts that the report was judged by and that are not the defaults."""
    return {
        cut.id: cut.value
        for cut in sorted(report.thresholds, key=lambda cut: cut.id)
        if cut.id in DEFAULT and cut.value != DEFAULT[cut.id]
    }


def _completion_files(inputs: dict[str, str]) -> list[str]:
    """Hashes of the files that are no adapter's, tokenizer's or reference's."""
    config = "/adapter_config.json"
    adapters = {name.removesuffix(config) for name in inputs if name.endswith(config)}
    return [
        digest
        for name, digest in sorted(inputs.items())
        if name != "tokenizer"
        and not name.startswith("reference:")
        and name.removesuffix(config) not in adapters
    ]


def _digest(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
