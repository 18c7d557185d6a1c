"""What became of verdicts and findings: regimes, causes, and what is new or gone."""

from collections.abc import Iterable, Sequence
from typing import Literal

from arca_diag.compared import FigureChange, FindingChange, Label, RegimeChange
from arca_diag.comparing.opening import Opened
from arca_diag.results import Verdict, View
from arca_diag.signals import SIGNAL_NAMES

Level = Literal["error", "warn", "note"]
_LEVELS: tuple[Level, ...] = ("error", "warn", "note")
#: In the order in which a reader asks: of a fixed set the prompts are the same.
VIEWS: tuple[View, ...] = ("fixed-set", "on-policy")
_SHAPE = ("gini_corrected", "effn_corrected")


def regime_changes(
    a: Opened,
    b: Opened,
    pairs: Sequence[tuple[Label, Label]],
    figures: Iterable[FigureChange],
) -> list[RegimeChange]:
    """The verdict on every signal in both, for every pair of checkpoints and view."""
    changed = {
        (f.checkpoint_a, f.checkpoint_b, f.view, f.signal)
        for f in figures
        if f.status == "changed" and f.name in _SHAPE
    }
    before, after = (_verdicts(side) for side in (a, b))
    out = []
    for at in pairs:
        for view in VIEWS:
            for signal in SIGNAL_NAMES:
                old, new = before.get((at[0], view, signal)), after.get((at[1], view, signal))
                if old is None and new is None:
                    continue
                causes = [[] if v is None else v.causes for v in (old, new)]
                out.append(
                    RegimeChange(
                        checkpoint_a=at[0],
                        checkpoint_b=at[1],
                        view=view,
                        signal=signal,
                        a=None if old is None else old.regime,
                        b=None if new is None else new.regime,
                        causes_gained=[c for c in causes[1] if c not in causes[0]],
                        causes_lost=[c for c in causes[0] if c not in causes[1]],
                        figures_changed=(*at, view, signal) in changed,
                    )
                )
    return out


def finding_changes(
    a: Opened, b: Opened, pairs: Sequence[tuple[Label, Label]]
) -> list[FindingChange]:
    """What is new, gone, or of another level: of the run, or of a compared checkpoint."""
    before, after = (_findings(side, [at[n] for at in pairs]) for n, side in enumerate((a, b)))
    keys = sorted({*before, *after}, key=lambda key: (key[0], key[1] or ""))
    return [
        FindingChange(id=key[0], signal=key[1], level_a=before.get(key), level_b=after.get(key))
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _verdicts(side: Opened) -> dict[tuple[Label, View, str], Verdict]:
    return {
        (v.checkpoint, v.view, v.signal): v
        for v in side.report.verdicts
        if v.sharpening == side.sharpening
    }


def _findings(side: Opened, labels: Sequence[Label]) -> dict[tuple[str, str | None], Level]:
    """The worst level of every finding, by id and signal."""
    worst: dict[tuple[str, str | None], Level] = {}
    for finding in side.report.findings:
        if finding.checkpoint is None or finding.checkpoint in labels:
            key = (finding.id, finding.signal)
            worst[key] = min(worst.get(key, "note"), finding.level, key=_LEVELS.index)
    return worst
