"""What the gate's views word alike. Text from models, files and policies is hostile to them all."""

from collections.abc import Sequence

from arca_diag.gate.outcome import Case, GateResult, RuleOutcome
from arca_diag.gate.policy import NEW_FINDINGS
from arca_diag.report.words import at, count, harmless


def place(case: Case) -> str:
    """Where a case is, in words; empty if it is of the run."""
    parts = []
    if case.checkpoint is not None:
        parts.append(at(case.checkpoint))
    if case.signal is not None:
        parts.append(case.signal)
    if case.view is not None:
        parts.append(case.view)
    return ", ".join(parts)


def told(rule: RuleOutcome) -> str:
    """What a rule has to say: the place of its first deciding case, and its message."""
    cases = rule.deciding() if rule.status != "passed" else []
    where = place(cases[0]) if cases else ""
    return harmless(f"{where}: {rule.message}" if where else rule.message)


def followers(result: GateResult) -> dict[str, list[str]]:
    """Ids of inconclusive rules by the rule that tells why they are: views show that one alone.

    It has to be there at each of their checkpoints, and to count for no less than they do.
    """
    found: dict[str, list[str]] = {}
    for root in result.rules:
        if root.status not in ("failed", "inconclusive"):
            continue
        places = {c.checkpoint for c in root.cases if c.status == root.status}
        ids = [
            r.id
            for r in result.of_status("inconclusive")
            if r.id != root.id
            and (root.fails or root.holds or not r.holds)
            and all(
                c.because == root.of and c.checkpoint in places
                for c in r.cases
                if c.status == "inconclusive"
            )
        ]
        if ids:
            found[root.id] = ids
    return found


def and_followers(ids: Sequence[str]) -> str:
    """What is shown of them; empty if there are none."""
    return (
        f"for this {count(len(ids), 'rule')} more: {', '.join(map(harmless, ids))}" if ids else ""
    )


def last_line(result: GateResult, seconds: float) -> str:
    """The line that every gate ends with."""
    judged = result.judged
    parts = [count(result.errors, "error"), count(result.warnings, "warning")]
    if result.inconclusive:
        parts.append(f"{result.inconclusive:,} inconclusive")
    over = ", ".join(
        (
            count(len(result.rules), "rule"),
            count(len(judged.checkpoints), "checkpoint"),
            count(judged.tokens, "token"),
        )
    )
    return f"arca-diag: {result.status} {', '.join(parts)} ({over}) in {seconds:.1f} s"


def error_line(message: str, seconds: float) -> str:
    """The same where no gate could be held."""
    return f"arca-diag: ERROR {harmless(message)[:300]} in {seconds:.1f} s"


def summary(result: GateResult) -> list[tuple[str, str]]:
    """What was judged and by what, as labelled lines."""
    judged, policy = result.judged, result.policy
    steps = ", ".join(harmless(at(c)) for c in judged.checkpoints)
    replay = ", ".join(f"{harmless(k)} {v}" for k, v in result.replay_fidelity.items())
    held = ", ".join(judged.signals) or "none: no signal is the run's fault"
    lines = [
        ("Run", f"{harmless(judged.run)} at {steps}, {judged.view}"),
        (
            "Evidence",
            f"{count(judged.prompts, 'prompt')}, {count(judged.tokens, 'token')} (asked for: "
            f"{policy.min_clusters} and {policy.min_tokens:,})",
        ),
        ("Credit", f"{harmless(judged.credit)} in training; signals held to it: {held}"),
        ("Replay check", replay or "none"),
        (
            "Policy",
            f"{policy.profile}, {harmless(policy.file or 'no file')}; fails on {policy.fail_on}; "
            f"inconclusive: {policy.inconclusive}",
        ),
        (
            "On disk",
            "the run was at hand, its files' hashes were compared"
            if judged.compared_with_run
            else "the run is not at hand: its files could not be compared",
        ),
    ]
    if judged.baseline is not None:
        figures = [harmless(name) for name in judged.compared if name != NEW_FINDINGS]
        held = ", ".join(figures) or "no figure: no rule has max-increase or max-decrease"
        new = "warnings and errors, " if NEW_FINDINGS in judged.compared else ""
        lines.append(
            ("Baseline", f"a result of {harmless(judged.baseline)}; compared: {new}{held}")
        )
    return lines
