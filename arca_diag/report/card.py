"""What a run and its scan were, as names and texts: the run card of every rendering."""

from collections import Counter

from arca_diag.report.words import count
from arca_diag.results import Report
from arca_diag.thresholds import DEFAULT


def run_card(report: Report) -> list[tuple[str, str]]:
    """Name and text of each line; a line without a name goes on with the one before."""
    rollouts, adapter, options = report.rollouts, report.adapter, report.provenance.options
    base = report.provenance.base
    ids = "exact token ids" if rollouts.ids_exact else "ids from re-tokenised text (not exact)"
    rows = (
        ("Run", f"{report.run.name}: {count(len(report.run.checkpoints), 'checkpoint')}"),
        ("Base", f"{base['name']}, {report.provenance.dtype} on {report.provenance.device}"),
        ("Adapter", f"LoRA r={adapter.rank}, alpha={adapter.alpha:g}, init {adapter.init}"),
        ("Reference", f"{report.reference.kind}: {report.reference.reason}"),
        ("Rollouts", f"{rollouts.source}; {ids}"),
        (
            "",
            f"selected: {count(rollouts.selected, 'completion')} of "
            f"{count(rollouts.clusters, 'prompt')} in {count(rollouts.groups, 'group')}, "
            f"{rollouts.tokens:,} tokens counted",
        ),
        ("", _cut_off(report)),
        ("Replay check", _fidelity(report)),
        ("Temperature", f"{report.run.temperature:g} ({report.run.temperature_source})"),
        (
            "Credit",
            f"{options['credit']} in training ({options['credit_source']}); below, signals as "
            f"credit at sharpening {options['sharpening']:g}, epsilon {options['epsilon']:g}",
        ),
        ("Thresholds", _other_cuts(report)),
    )
    return [(name, text) for name, text in rows if text]


def _other_cuts(report: Report) -> str:
    """The cuts that are not what they are by default; empty if all are."""
    return ", ".join(
        f"{cut.id} {cut.value:g} (default {DEFAULT[cut.id]:g})"
        for cut in report.thresholds
        if cut.id in DEFAULT and cut.value != DEFAULT[cut.id]
    )


def _fidelity(report: Report) -> str:
    """Whether the replay gives what the run logged, over the checkpoints."""
    statuses = Counter(f.status for f in report.replay_fidelity)
    told = [
        f"{status} at {count(statuses[status], 'checkpoint')}"
        for status in ("pass", "warn", "fail")
        if statuses[status]
    ]
    if statuses["cannot-tell"]:
        why = next(f.reason for f in report.replay_fidelity if f.status == "cannot-tell")
        told.append(f"cannot tell at {count(statuses['cannot-tell'], 'checkpoint')} ({why})")
    return f"against the run's log: {', '.join(told)}" if told else "nothing to compare"


def _cut_off(report: Report) -> str:
    rollouts = report.rollouts
    text = f"{rollouts.cut_off:,} cut off at the length limit"
    if rollouts.cut_off_unknown:
        text += f", unknown for {rollouts.cut_off_unknown:,}"
    if rollouts.unknown_fields:
        text += f"; fields nobody reads: {', '.join(sorted(rollouts.unknown_fields))[:60]}"
    return text
