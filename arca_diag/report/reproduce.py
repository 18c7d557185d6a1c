"""The command that gives a result again, and what else that needs."""

import shlex
from collections.abc import Iterable, Iterator
from typing import Any

from arca_diag.config import ScanConfig
from arca_diag.report.document import Command, Facts, Paragraph, Section
from arca_diag.report.method import as_default
from arca_diag.report.numbers import figure
from arca_diag.report.words import count
from arca_diag.results import Report


def reproduce_section(report: Report) -> Section:
    """The command, and what it was run with and on."""
    provenance = report.provenance
    versions = ", ".join(f"{name} {v}" for name, v in provenance.versions.items())
    cuts = options_of_cuts(report)
    rows = [
        *([("Cuts", f"in [thresholds] of arca.toml: {cuts}")] if cuts else []),
        ("Base", f"{provenance.base.get('name')}, SHA-256 {provenance.base.get('sha256')}"),
        ("Versions", versions),
        ("Made", f"{provenance.started_at}, {figure(provenance.seconds, unit='s')}"),
        (
            "Inputs",
            f"{count(len(provenance.inputs), 'file')}, each with its SHA-256 in report.json",
        ),
    ]
    return Section(
        id="reproduce",
        title="Reproduce",
        blocks=(
            Command(text=scan_command(report)),
            Paragraph(
                text="From the folder that the run lies in; with --base PATH where the base is not "
                "found by what the adapter says of it, and with --out for another result folder."
            ),
            Facts(rows=tuple(rows)),
        ),
    )


def options_of_cuts(report: Report) -> str:
    """The cuts that are not what they are by default, as a file would give them; may be empty."""
    other = (cut for cut in report.thresholds if not as_default(cut.id, cut.value))
    return ", ".join(f"{cut.id} = {cut.value:g}" for cut in other)


def scan_command(report: Report) -> str:
    """The scan that gives this result again, where the run and its base are found as they were.

    Options that a default scan resolves to the same are left out; the base is not, where it was
    named by its content alone.
    """
    options = report.provenance.options
    words = ["arca-diag", "scan", report.run.name]
    steps = [str(c.name if c.step is None else c.step) for c in report.run.checkpoints]
    words += ["--checkpoints", ",".join(steps)]
    words += _given(options, ("device", "dtype", "temperature"))
    if report.reference.kind != "path":  # of a folder the report holds no path
        words += ["--reference", report.reference.kind]
    fields = ScanConfig.model_fields
    plain = [
        name
        for name in fields
        if name in options
        and name not in ("base", "device", "dtype", "temperature", "reference")
        and options[name] not in (None, False, fields[name].default)
        and not isinstance(options[name], dict)
    ]
    words += _given(options, [n for n in plain if n != "generate"])
    return shlex.join(words)


def _given(options: dict[str, Any], names: Iterable[str]) -> Iterator[str]:
    for name in names:
        value = options.get(name)
        if value is not None:
            yield "--" + name.replace("_", "-")
            if value is not True:
                yield figure(value) if isinstance(value, float) else str(value)
