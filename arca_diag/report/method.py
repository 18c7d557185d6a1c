"""How a result is to be read: method, limits, and the thresholds that decided."""

from arca_diag.explanations import CLASS_CUTS
from arca_diag.report.document import Block, Paragraph, Section, Table
from arca_diag.report.numbers import figure
from arca_diag.results import Report
from arca_diag.thresholds import DEFAULT

_LIMITS = (
    "Every interval is of 95%, over prompts and not over tokens, and pointwise: of many figures "
    "some are off. Causes alone are corrected (Holm) for how many are asked.",
    "A regime says how concentrated a credit is, not whether it is wrong. Without a cause a "
    "sparse signal may rightly be sparse.",
    "On-policy figures of two checkpoints are of different completions; compare checkpoints by "
    "the fixed set. Where completions shrink in training, part of a trend can be length.",
    "What was not measured is no pass: it is listed under “Not judged”, with what it needs.",
)
_READ = (
    "Every completion is run again under the adapted model and its reference. A signal a_t >= 0 "
    "(surprisal, entropy, their kin, and the residual, the norm of h_adapted - h_ref after the "
    "final norm) becomes credit as w_t = (a_t + epsilon)^s / sum_k (a_k + epsilon)^s within one "
    "completion.",
    "The corrected Gini (G^) is the Gini coefficient of that credit, corrected for length: 0 even, "
    "1 all on one token. The corrected effective tokens (e^) are their share of all tokens, "
    "corrected for length: 1 even, 0 one token. "
    "Figures are means over prompts of means over their completions.",
    "A regime is what surely more than half of the completions have, by the lower limit of "
    "their share over prompts. `arca-diag explain WORD` says how a regime, cause or finding is "
    "measured, and what can fake it.",
)


def method_section(report: Report) -> Section:
    """How to read the figures, what they cannot say, and every cut with its source."""
    cuts = Table(
        title="Thresholds",
        head=("cut", "value", "decides", "source"),
        rows=tuple(
            (
                cut.id,
                f"{cut.comparator} {figure(cut.value)}"
                + (
                    ""
                    if as_default(cut.id, cut.value)
                    else f" (default {figure(_default(cut.id))})"
                ),
                CLASS_CUTS.get(cut.id, f"arca-diag explain {cut.id}").replace("`", ""),
                cut.source,
            )
            for cut in report.thresholds
        ),
    )
    blocks: tuple[Block, ...] = (
        *(Paragraph(text=text) for text in _READ),
        *(Paragraph(text=text) for text in _LIMITS),
        cuts,
    )
    return Section(id="method", title="Method, limits, thresholds", blocks=blocks, folded=True)


def _default(name: str) -> float | None:
    return next((cut.value for cut in DEFAULT if cut.id == name), None)


def as_default(name: str, value: float) -> bool:
    """Whether a cut is what it is without a configuration; one that is unknown here counts so."""
    return _default(name) in (None, value)
