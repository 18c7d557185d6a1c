"""What every finding means, how it is measured and what to do about it: data, a tuple to read.

A new finding is a rule elsewhere, an entry here, a test and a row in the README. The words that
verdicts use, regimes above all, are explained likewise.
"""

import difflib
from collections.abc import Iterator

from arca_diag.errors import ArcaError
from arca_diag.explanations.adapters import ADAPTERS
from arca_diag.explanations.completions import COMPLETIONS
from arca_diag.explanations.credit import CREDIT
from arca_diag.explanations.entry import Explanation, Term
from arca_diag.explanations.gate import CHECKS
from arca_diag.explanations.inputs import CHECKPOINTS, MODELS
from arca_diag.explanations.terms import TERMS
from arca_diag.explanations.training import LOG, REPLAY
from arca_diag.results import Threshold
from arca_diag.thresholds import DEFAULT

EXPLANATIONS: tuple[Explanation, ...] = (
    *ADAPTERS,
    *CHECKPOINTS,
    *MODELS,
    *REPLAY,
    *LOG,
    *COMPLETIONS,
    *CREDIT,
)

_BY_GINI = "G^ names the class `{}` of a completion; e^ names one too, and the milder holds"
_BY_EFFN = "e^ names the class `{}` of a completion; G^ names one too, and the milder holds"
#: What the cuts decide that no finding has: the class of a completion, the regime of a checkpoint.
CLASS_CUTS: dict[str, str] = {
    "gini-uniform": _BY_GINI.format("uniform"),
    "gini-leaning-uniform": _BY_GINI.format("leaning-uniform"),
    "gini-leaning-sparse": _BY_GINI.format("leaning-sparse"),
    "gini-sparse": _BY_GINI.format("sparse"),
    "effn-uniform": _BY_EFFN.format("uniform"),
    "effn-leaning-uniform": _BY_EFFN.format("leaning-uniform"),
    "effn-leaning-sparse": _BY_EFFN.format("leaning-sparse"),
    "effn-sparse": _BY_EFFN.format("sparse"),
    "tokens-short": "a completion of so few counted tokens is `short`: it has no class",
    "share-majority": "a checkpoint has a regime where the share of its classes is surely so; "
    "`mixed` where surely none is",
    "clusters-least": "so many prompts are needed for a regime; under it `inconclusive`, unless "
    "every score is exactly zero",
}


def cuts_of(found: Explanation | Term) -> list[Threshold]:
    """The cuts that decide a finding or a word, in its order."""
    return [next(cut for cut in DEFAULT if cut.id == name) for name in found.thresholds]


def explain(identity: str) -> Explanation | Term | Threshold:
    """The finding, word or cut of an id; the finding before a cut, for it prints the cut.

    Raises:
        ArcaError: There is neither; the hint names the nearest.
    """
    for known in _known():
        if known.id == identity or identity in (known.also if isinstance(known, Term) else ()):
            return known
    near = difflib.get_close_matches(identity[:100].lower(), [known.id for known in _known()])
    did_you_mean = f"did you mean {' or '.join(near)}? " if near else ""
    raise ArcaError(
        f"{identity!r:.100}: no finding, no regime and no threshold has this id",
        hint=f"{did_you_mean}`arca-diag explain --list` names every finding and regime",
    )


def listed() -> list[Explanation | Term]:
    """Every finding, and after them the words that verdicts use and the gate's own checks."""
    return [*EXPLANATIONS, *TERMS, *CHECKS]


def used_by(threshold: str) -> list[str]:
    """Ids of the findings that a cut decides."""
    return [e.id for e in EXPLANATIONS if threshold in e.thresholds]


def _known() -> Iterator[Explanation | Term | Threshold]:
    yield from listed()
    yield from DEFAULT
