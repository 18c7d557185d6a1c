"""What differs between two results beside the policy, so that a reader knows it first."""

from collections.abc import Iterable, Sequence
from typing import Literal

from arca_diag.compared import Label, Sets, Unlike
from arca_diag.comparing.opening import Opened
from arca_diag.likeness import made_of, measured_by, other_cuts
from arca_diag.results import Report

_BOTH = "a difference may come from that alone"


def unlike(
    a: Opened,
    b: Opened,
    pairs: Sequence[tuple[Label, Label]],
    sets: Iterable[Sets],
) -> list[Unlike]:
    """Everything that differs, worst first."""
    found = [*_replays(a, b, pairs), *_measuring(a.report, b.report)]
    if a.sharpening != b.sharpening:
        found.append(_one("sharpening", "warn", a.sharpening, b.sharpening, _BOTH))
    found += [_other_completions(one) for one in sets if not one.paired]
    return list(dict.fromkeys([*found, *_making(a.report, b.report)]))


def _one(
    what: str,
    level: Literal["warn", "note"],
    a: str | float | None,
    b: str | float | None,
    told: str,
) -> Unlike:
    return Unlike(
        what=what, level=level, a=a, b=b, message=f"{_said(a)} in A, {_said(b)} in B: {told}"
    )


def _said(value: str | float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:g}" if isinstance(value, float | int) else value


def _replays(a: Opened, b: Opened, pairs: Sequence[tuple[Label, Label]]) -> Iterable[Unlike]:
    """Checkpoints whose replay is not the run: no figure there is the policy's."""
    failed = [
        {f.checkpoint for f in side.report.replay_fidelity if f.status == "fail"} for side in (a, b)
    ]
    for at in pairs:
        bad = [
            str(label) in of or _name(side, label) in of
            for label, of, side in zip(at, failed, (a, b), strict=True)
        ]
        if any(bad):
            words = ["not the run's" if one else "the run's" for one in bad]
            yield _one("replay", "warn", words[0], words[1], "believe no difference from it")


def _name(side: Opened, label: Label) -> str:
    return side.names.get(label, str(label))


def _measuring(a: Report, b: Report) -> Iterable[Unlike]:
    before, after = measured_by(a), measured_by(b)
    for what in before:
        if before[what] == after[what]:
            continue
        old, new = before[what], after[what]
        if what == "base":
            old, new = _base(a), _base(b)
        yield _one(what, "warn", old, new, _BOTH)


def _base(report: Report) -> str | None:
    """Name and the beginning of the hash: two models of one name differ in that alone."""
    name, digest = report.provenance.base.get("name"), report.provenance.base.get("sha256")
    parts = [str(name)] if name else []
    parts += [f"({digest[:8]})"] if isinstance(digest, str) else []
    return " ".join(parts) or None


def _other_completions(sets: Sets) -> Unlike:
    return Unlike(
        what=f"{sets.view} completions",
        level="note",
        a=None,
        b=None,
        message=f"{sets.reason}; differences there are not paired",
    )


def _making(a: Report, b: Report) -> Iterable[Unlike]:
    before, after = made_of(a), made_of(b)
    for what in ("tool version", "rollouts"):
        if before[what] != after[what]:
            yield _one(what, "note", before[what], after[what], "compared all the same")
    for what, key in (("credit", "credit"), ("device", "device")):
        old, new = (str(r.provenance.options.get(key)) for r in (a, b))
        if old != new:
            yield _one(what, "note", old, new, "compared all the same")
    old, new = (_cuts(r) for r in (a, b))
    if old != new:
        yield _one("cuts", "note", old, new, "regimes may differ from that alone")


def _cuts(report: Report) -> str:
    return ", ".join(f"{k} {v:g}" for k, v in other_cuts(report).items()) or "the defaults"
