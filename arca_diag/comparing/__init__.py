"""Two results side by side: what changed, and whether it is outside noise. No model, no torch."""

from collections.abc import Sequence
from pathlib import Path

from arca_diag import __version__
from arca_diag.compared import Comparison, Label, Result
from arca_diag.comparing.figures import Place, figure_changes
from arca_diag.comparing.opening import Opened, open_result
from arca_diag.comparing.pairing import match
from arca_diag.comparing.unlike import unlike
from arca_diag.comparing.verdicts import VIEWS, finding_changes, regime_changes
from arca_diag.errors import ResultError


def compare_results(before: Path, after: Path, checkpoints: Sequence[str] = ()) -> Comparison:
    """Compare two saved results.

    Args:
        before: A, a result folder or its report.json.
        after: B.
        checkpoints: Which: a step or name that both have, `FROM:TO` for one of A and another of
            B, or `all` for every one that both have. Without any, the last that both have, else
            the last of each.

    Raises:
        ResultError: One is no finished result of this version, or lacks a checkpoint.
    """
    a, b = open_result(before), open_result(after)
    pairs, chosen = _choose(a, b, checkpoints)
    places = [
        Place(
            a=a,
            b=b,
            at=at,
            view=view,
            matched=match(a, b, at, view),
        )
        for at in pairs
        for view in VIEWS
    ]
    sets = [place.matched.sets for place in places]
    figures = figure_changes(places)
    return Comparison(
        schema_version=1,
        tool={"name": "arca-diag", "version": __version__},
        a=_side(a),
        b=_side(b),
        checkpoints=pairs,
        chosen=chosen,
        unlike=unlike(a, b, pairs, sets),
        sets=sets,
        figures=figures,
        regimes=regime_changes(a, b, pairs, figures),
        findings=finding_changes(a, b, pairs),
    )


def without_text(found: Comparison) -> Comparison:
    """The comparison without what the files of completions are called.

    It holds no prompt, completion or token in any case; names of runs and checkpoints stay.
    """
    hidden = [
        one.model_copy(update={"a": None, "b": None, "message": "other files in A than in B"})
        if one.what == "rollouts"
        else one
        for one in found.unlike
    ]
    return found.model_copy(update={"unlike": hidden})


def _side(side: Opened) -> Result:
    return Result(
        label=side.label,
        run=side.report.run.name,
        version=str(side.report.tool.get("version")),
        made=side.report.provenance.started_at,
        sharpening=side.sharpening,
        checkpoints=list(side.names),
        tables=side.completions is not None,
    )


def _choose(a: Opened, b: Opened, asked: Sequence[str]) -> tuple[list[tuple[Label, Label]], str]:
    """Pairs of checkpoints, and why these."""
    common = [label for label in a.names if label in b.names]
    if asked:
        pairs: dict[tuple[Label, Label], None] = {}
        for text in asked:
            found = [(c, c) for c in common] if text == "all" else [_named(a, b, text)]
            if not found:
                raise ResultError(
                    "the results have no checkpoint in common",
                    hint="name one of each: --checkpoint FROM:TO",
                )
            pairs |= dict.fromkeys(found)
        return list(pairs), "as asked"
    if common:
        last = common[-1]
        newer = [which for which, side in (("A", a), ("B", b)) if list(side.names)[-1] != last]
        more = f"; {' and '.join(newer)} {'has' if len(newer) == 1 else 'have'} later ones"
        return [(last, last)], "the last that both measured" + (more if newer else "")
    if a.names and b.names:
        return [
            (list(a.names)[-1], list(b.names)[-1])
        ], "the last of each: they have none in common"
    empty = [which for which, side in (("A", a), ("B", b)) if not side.names]
    return [], f"nothing was measured in {' and '.join(empty)}"


def _named(a: Opened, b: Opened, text: str) -> tuple[Label, Label]:
    both = _label(a, text), _label(b, text)
    if None in both and ":" in text:
        before, _, after = text.partition(":")
        both = _label(a, before), _label(b, after)
    if both[0] is None or both[1] is None:
        which, side = ("A", a) if both[0] is None else ("B", b)
        there = ", ".join(map(str, side.names)) or "none"
        raise ResultError(
            f"{which} ({side.label}) has no checkpoint for {text}; it has {there}",
            hint="give one that both have, FROM:TO for one of each, or all, with --checkpoint",
        )
    return both[0], both[1]


def _label(side: Opened, text: str) -> Label | None:
    """The checkpoint of a step or name."""
    for label, name in side.names.items():
        if text in (str(label), name):
            return label
    return None
