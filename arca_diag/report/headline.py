"""The one sentence that a reader takes along, and the verdict on every signal in plain words."""

from collections.abc import Sequence

from arca_diag.faults import n_seen, one_in
from arca_diag.report.words import at, count
from arca_diag.results import Report, Verdict, View
from arca_diag.signals import SIGNAL_NAMES

_SPARSE = ("sparse", "leaning-sparse")
_UNIFORM = ("uniform", "leaning-uniform")


def headline(report: Report) -> str:
    """What the run's credit is, and which signals would be useless as credit, in plain words.

    About the last checkpoint that was measured, on-policy where there are such completions. A
    fault that makes every figure void comes instead of it, and other errors before it.
    """
    failed = [f for f in report.replay_fidelity if f.status == "fail"]
    if failed:
        return (
            f"The replay is not the run at {len(failed)} of "
            f"{count(len(report.replay_fidelity), 'checkpoint')}: believe no figure of it below."
        )
    shown = last_verdicts(report)
    if not shown:
        return "Nothing could be measured: see why below."
    errors = [f for f in report.findings if f.level == "error" and f.caused_by is None]
    lead = f"{count(len(errors), 'error')}: see below. " if errors else ""
    one = shown[0]
    where = f"At {at(one.checkpoint)} ({one.view}, {count(one.n_clusters, 'prompt')})"
    return f"{lead}{where}, {_declared(report, shown)}{_others(report, shown)}"


def no_fault(report: Report) -> str:
    """What was asked where neither an error nor a warning came of it, and what could not be."""
    told = (
        "No fault was found: no error and no warning, in the adapters, the log, the completions, "
        "the replay and what the run's own credit does."
    )
    left = len({s.id for s in report.skipped})
    return told + (f" {count(left, 'question')} could not be asked everywhere." if left else "")


def last_verdicts(report: Report, view: View | None = None) -> list[Verdict]:
    """Those of the last checkpoint at the configured sharpening: on-policy, else the fixed set."""
    sharpening = report.provenance.options["sharpening"]
    for which in (view,) if view else ("on-policy", "fixed-set"):
        found = [
            v
            for v in report.verdicts
            if v.view == which and v.sharpening == sharpening and n_seen(v)
        ]
        if found:
            last = found[-1].checkpoint
            return [v for v in found if v.checkpoint == last and v.signal in SIGNAL_NAMES]
    return []


def _declared(report: Report, shown: Sequence[Verdict]) -> str:
    credit = str(report.provenance.options["credit"])
    if credit == "uniform":
        return "the run weights all tokens alike: no signal is to blame. As credit, "
    verdict = next((v for v in shown if v.signal == credit), None)
    if verdict is None:
        return f"the run weights by {credit}. As credit, "
    found = f", with {' and '.join(verdict.causes)}" if verdict.causes else ""
    return f"the run's own credit, {_words(credit)}, is {verdict.regime}{found}. Of the others, "


def _others(report: Report, shown: Sequence[Verdict]) -> str:
    """Which would rest on few tokens, which be near even, which in between, which unsettled."""
    parts = []
    shown = [v for v in shown if v.signal != report.provenance.options["credit"]]
    sparse = [v for v in shown if v.regime in _SPARSE]
    if sparse:
        ratio = _typical_ratio(report, sparse)
        many = "" if ratio is None else f" ({one_in(ratio)} or so)"
        parts.append(f"{_list(sparse)} would rest on few tokens{many}")
    even = [v for v in shown if v.regime in _UNIFORM]
    if even:
        parts.append(f"{_list(even)} would be near even")
    absent = [v for v in shown if v.regime == "no-signal"]
    if absent:
        parts.append(f"{_list(absent)} would be nothing at all")
    rest = [v for v in shown if v.regime == "inconclusive"]
    if rest:
        parts.append(f"{_list(rest)}: not settled")
    between = [v for v in shown if v.regime in ("middle", "mixed") and not v.causes]
    if between:
        parts.append(f"{_list(between)} would spread in between")
    explained = [v for v in shown if v.regime in ("middle", "mixed") and v.causes]
    if explained:
        parts.append(f"{_list(explained)} would too, but for a cause named below")
    return ("; ".join(parts) or "none has a verdict") + "."


def _typical_ratio(report: Report, verdicts: Sequence[Verdict]) -> float | None:
    """The middle one of the signals' shares of effective tokens."""
    one = verdicts[0]
    names = [v.signal for v in verdicts]
    found = sorted(
        m.value
        for m in report.measurements
        if (m.name, m.checkpoint, m.view) == ("effn_ratio", one.checkpoint, one.view)
        if m.sharpening == one.sharpening and m.signal in names and m.value is not None
    )
    return found[len(found) // 2] if found else None


def _list(verdicts: Sequence[Verdict]) -> str:
    names = [_words(v.signal) for v in verdicts]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _words(signal: str) -> str:
    return signal.replace("_", " ")
