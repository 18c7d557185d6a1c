"""The named profiles: what they ask where a policy says nothing else. All fail closed.

Missing evidence is never a pass in any of them. `recommended` holds a run to the credit that it
trains with; `strict` holds every signal to it, at every checkpoint, and warnings fail; in
`lenient` faults of adapter, replay, reference and advantage fail, and credit only warns.
"""

from typing import Any, Literal

from arca_diag.gate.names import CHECK_IDS, FINDING_IDS, SIGNAL_IDS
from arca_diag.gate.policy import Rule, RuleLevel, Which

ProfileName = Literal["recommended", "strict", "lenient"]

#: Settings that differ from the defaults of `Policy`.
_SETTINGS: dict[ProfileName, dict[str, Any]] = {
    "recommended": {},
    "strict": {"fail_on": "warn", "checkpoint": "all", "min_clusters": 12, "min_tokens": 1500},
    "lenient": {"min_tokens": 0},
}
#: Rules that a profile holds at another level than the others do.
_LEVELS: dict[ProfileName, dict[str, RuleLevel]] = {
    "recommended": {},
    "strict": {},
    "lenient": {
        **dict.fromkeys(SIGNAL_IDS, "at-most-warn"),
        "replay-unchecked": "warn",
        "baseline-new-findings": "warn",
    },
}
PROFILES: tuple[ProfileName, ...] = ("recommended", "strict", "lenient")


def settings_of(profile: ProfileName) -> dict[str, Any]:
    """The settings of a profile, by the names of `Policy`'s fields; the rest are its defaults."""
    return {"profile": profile, **_SETTINGS[profile]}


def rules_of(profile: ProfileName) -> dict[str, Rule]:
    """Every rule of a profile, in the order in which an outcome lists them."""
    held: Which = "all" if profile == "strict" else "declared"
    levels = _LEVELS[profile]
    checks = {
        name: Rule(kind="check", of=name, level=levels.get(name, "error")) for name in CHECK_IDS
    }
    findings = {
        name: Rule(
            kind="finding",
            of=name,
            level=levels.get(name, "as-found"),
            signals=held if name in SIGNAL_IDS else "all",
        )
        for name in FINDING_IDS
    }
    return checks | findings
