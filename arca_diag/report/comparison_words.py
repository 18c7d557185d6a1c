"""What the views of a comparison word alike. Names of runs and folders are hostile to them all."""

from collections.abc import Sequence

from arca_diag.compared import Comparison, FigureChange, FindingChange, Label, RegimeChange, Sets
from arca_diag.report.words import at, count, places
from arca_diag.results import View

#: How a figure is named in a table.
SHORT = {
    "gini_corrected": "G^",
    "effn_corrected": "e^",
    "token_share_90": "90% share",
    "mean": "mean",
    "inherited_tv": "inherited",
    "reward_gap": "reward gap",
    "short_share": "short completions",
    "groups_without_spread": "groups without spread",
}
#: Figures that a table shows even where nothing changed.
ALWAYS = ("gini_corrected", "effn_corrected")
HOW_TO_READ = (
    "Means over prompts; differences are B less A, with 95% intervals over prompts. On the same "
    "completions they are paired; on others G^, e^ and the 90% share are compared at like length "
    "(*), so that a difference need not be that of its columns. Each interval stands for itself: "
    "where nothing changed, one in 20 says it did. What is changed, corrected, passes Holm's "
    "correction for all that were asked too. 90% share: of tokens, that hold 90% of the credit; "
    "inherited: how far the credit is from the reference's. `arca-diag explain WORD` explains "
    "regimes and findings."
)


def headline(found: Comparison) -> str:
    """What changed outside noise and what did not, in a sentence or two; what is unlike first."""
    if not found.checkpoints:
        return f"Nothing can be compared: {found.chosen}."
    warned = list(dict.fromkeys(one.what for one in found.unlike if one.level == "warn"))
    lead = ""
    if warned:
        lead = (
            f"These results were not measured alike ({', '.join(warned)}): what differs may come "
            "from that alone. "
        )
    changed, asked = found.of("changed"), found.of("changed", "within-noise")
    equal = found.of("equal")
    if not changed:
        return lead + _nothing(found, len(asked), len(equal))
    holds = sum(f.holds for f in changed)
    slight = sum(f.slight for f in changed)
    by = f" ({'all' if slight == len(changed) else slight} by less than .005)" if slight else ""
    told = (
        f"{_where(found)}, {len(changed)} of {count(len(asked) + len(equal), 'figure')} changed "
        f"outside noise{by}, {holds or 'none'} of them also after correction for all that were "
        "asked"
    )
    return f"{lead}{told}. {_concentration(found)}"


def _nothing(found: Comparison, asked: int, equal: int) -> str:
    if equal and not asked:
        return f"Nothing changed: all {count(equal, 'figure')} are exactly equal."
    if not asked and not equal:
        return f"{_where(found)}, nothing can be called changed or unchanged: see why below."
    told = f"{_where(found)}, nothing changed outside noise: {count(asked, 'difference')} within it"
    return told + (f", {count(equal, 'figure')} exactly equal." if equal else ".")


def where(found: Comparison) -> str:
    """At which checkpoints they are compared, in a few words; there is one at least."""
    if len(found.checkpoints) > 1:
        return f"at {count(len(found.checkpoints), 'pair')} of checkpoints"
    ((a, b),) = found.checkpoints
    return f"at {at(a)} of both" if a == b else f"from {at(a)} of A to {at(b)} of B"


def _where(found: Comparison) -> str:
    told = where(found)
    return told[:1].upper() + told[1:]


def _concentration(found: Comparison) -> str:
    """Which credits are more concentrated or more even in B, surely: of one view, by G^."""
    figures = [f for f in found.figures if f.name == "gini_corrected"]
    views: tuple[View, ...] = ("fixed-set", "on-policy")
    view = next(
        (v for v in views if any(f.view == v and f.status != "undefined" for f in figures)), None
    )
    last = found.checkpoints[-1]
    here = [f for f in figures if f.view == view and (f.checkpoint_a, f.checkpoint_b) == last]
    parts = []
    for words, sign in (("would rest on fewer tokens in B", 1), ("would be spread wider in B", -1)):
        names = [
            f.signal
            for f in here
            if f.holds and not f.slight and sign * (f.difference.value or 0) > 0
        ]
        if names:
            parts.append(f"{_list(names)} {words}")
    if not parts:
        return f"No signal's concentration (G^, {view}) surely moved by more than .005."
    return f"As credit ({view}), {'; '.join(parts)}."


def _list(names: Sequence[str | None]) -> str:
    words = [str(name).replace("_", " ") for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def sides(found: Comparison) -> list[tuple[str, str]]:
    """What A and B are and at which checkpoints they are compared, as labelled lines."""
    lines = []
    for which, side in (("A", found.a), ("B", found.b)):
        tables = "" if side.tables else ", without its tables"
        measured = count(len(side.checkpoints), "checkpoint")
        lines.append((which, f"{side.label}: run {side.run}, {measured} measured{tables}"))
    if found.checkpoints:
        pairs = places([_pair(pair) for pair in found.checkpoints], "pairs")
        powers = [f"{side.sharpening:g}" for side in (found.a, found.b)]
        power = powers[0] if powers[0] == powers[1] else f"{powers[0]} in A, {powers[1]} in B"
        lines.append(("At", f"{pairs}: {found.chosen}; credit at sharpening {power}"))
    return lines


def _pair(pair: tuple[Label, Label]) -> str:
    return at(pair[0]) if pair[0] == pair[1] else f"{at(pair[0])} of A and {at(pair[1])} of B"


def place(sets: Sets) -> str:
    """One view at one pair of checkpoints: `fixed-set at step 60`."""
    return f"{sets.view} at {_pair((sets.checkpoint_a, sets.checkpoint_b))}"


def title(sets: Sets) -> str:
    """How the completions of a place are held together; stands after it."""
    if not sets.paired:
        told = f"{sets.prompts_a} and {count(sets.prompts_b, 'prompt')}, not paired"
        return f": {told}"
    common = count(sets.prompts_common, "prompt")
    if sets.prompts_common == sets.prompts_a == sets.prompts_b:
        return f": the same completions in both, paired over {common}"
    of = f"{sets.prompts_a} and {sets.prompts_b}"
    return f": paired over the {common} (of {of}) that have the same completions in both"


def name(figure: FigureChange) -> str:
    """A figure as a row is called; with a star where it is compared at like length."""
    short = SHORT.get(figure.name, figure.name)
    star = " *" if figure.how == "like-length" else ""
    return f"{short}{star}" if figure.signal is None else f"{figure.signal} {short}{star}"


def why_not(figures: Sequence[FigureChange]) -> list[str]:
    """The figures that nothing is called of, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for figure in figures:
        if figure.reason is not None:
            word = "not called" if figure.status == "inconclusive" else "undefined"
            by_reason.setdefault(f"{word}: {{}}: {figure.reason}", []).append(name(figure))
    return [
        told.replace("{}", ", ".join(names) if len(names) <= 4 else count(len(names), "figure"), 1)
        for told, names in by_reason.items()
    ]


def regime_words(change: RegimeChange) -> str:
    """What became of one verdict."""
    parts = []
    if change.a != change.b:
        told = f"{change.a or 'no verdict'} -> {change.b or 'no verdict'}"
        within = "" if change.figures_changed else " (neither G^ nor e^ is outside noise)"
        parts.append(told + within)
    if change.causes_gained:
        parts.append(f"now {', '.join(change.causes_gained)}")
    if change.causes_lost:
        parts.append(f"no longer {', '.join(change.causes_lost)}")
    return "; ".join(parts)


def finding_words(changes: Sequence[FindingChange]) -> list[str]:
    """What became of the findings, a line for those that became the same."""
    signals: dict[str, list[str]] = {}
    for one in changes:
        if one.level_a is None:
            told = f"new in B: {one.level_b} [{one.id}]"
        elif one.level_b is None:
            told = f"gone in B: {one.level_a} [{one.id}]"
        else:
            told = f"{one.level_a} in A, {one.level_b} in B: [{one.id}]"
        signals.setdefault(told, []).extend([] if one.signal is None else [one.signal])
    return [f"{told} of {', '.join(of)}" if of else told for told, of in sorted(signals.items())]
