"""Which pictures a result has not, and why: an empty place is never left to guess at."""

from collections.abc import Iterable

from arca_diag.report.headline import last_verdicts
from arca_diag.report.picture import Picture
from arca_diag.results import Report

#: The id that pictures begin with -> what they show, and why there may be none.
_SHOWN = {
    "trend": ("concentration over the run", "no view has a checkpoint that was measured"),
    "regime-map": ("map of regimes", "no completion has G^ and e^"),
    "lorenz": ("Lorenz curves", "no completion has credit on two tokens"),
    "residual": ("signals against the residual", "no token has both"),
    "agreement": ("agreement of signals", "it was measured of no two signals"),
    "classes": ("credit by class of token", "no token's class is known: there was no tokenizer"),
    "positions": ("credit by place", "no completion has credit"),
    "types": ("most credited token types", "no token's text is known"),
    "layers": ("where the residual arises", "layers.parquet holds no figure"),
    "rewards": ("credit and reward", "no group of completions has rewards"),
}


def not_drawn(report: Report, pictures: Iterable[Picture]) -> list[tuple[str, str]]:
    """What a picture would show that there is none of, and the reason.

    Args:
        report: The result.
        pictures: Those that could be drawn.
    """
    drawn = [picture.id for picture in pictures]
    return [
        (what, _why(report, name, usual))
        for name, (what, usual) in _SHOWN.items()
        if not any(of == name or of.startswith(f"{name}-") for of in drawn)
    ]


def _why(report: Report, name: str, usual: str) -> str:
    if not last_verdicts(report):
        return "nothing was measured"
    if name == "layers":
        told = next((s.reason for s in report.skipped if s.id == "layers"), None)
        if told is None and "layers.parquet" not in report.files:
            return "this result has no layers.parquet: it was left before scans kept one"
        return told or usual
    if name == "types" and report.provenance.options.get("redact_text"):
        return "texts and ids of tokens are redacted"
    return usual
