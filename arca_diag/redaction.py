"""A result without any text of the run: what can be shown to people who must not read it."""

import hashlib

import pandas as pd

from arca_diag.results import Report
from arca_diag.tables import Tables


def redact(report: Report, frames: Tables, salt: bytes) -> tuple[Report, Tables]:
    """Report and tables without any text, and without token ids, which decode to it.

    Names of rollouts, groups, prompts and completions become salted hashes: equal names stay
    equal. The report's options say that it was done.
    """
    rollouts = frames.rollouts.assign(prompt_text=None, completion_text=None)
    told = rollouts["finish_reason"].isin(["stop", "length"]) | rollouts["finish_reason"].isna()
    rollouts["finish_reason"] = rollouts["finish_reason"].where(told, "other")
    tokens = frames.tokens.assign(token=None, token_id=None)
    hidden = Tables(
        tokens=_renamed(tokens, salt),
        trajectories=_renamed(frames.trajectories, salt),
        rollouts=_renamed(rollouts, salt),
        noise=_renamed(frames.noise, salt),
        gradients=_renamed(frames.gradients, salt),
        layers=frames.layers,
        log=frames.log,
    )
    fixed = [pseudonym(name, salt) for name in report.rollouts.fixed_set]
    info = report.rollouts.model_copy(update={"fixed_set": fixed, "unknown_fields": {}})
    options = report.provenance.options | {"redact_text": True}
    provenance = report.provenance.model_copy(update={"options": options})
    return report.model_copy(update={"rollouts": info, "provenance": provenance}), hidden


def _renamed(frame: pd.DataFrame, salt: bytes) -> pd.DataFrame:
    """The table with every name in it replaced by its pseudonym."""
    named = [c for c in ("rollout_id", "group_id", "cluster", "completion") if c in frame]
    return frame.assign(
        **{c: frame[c].map({n: pseudonym(n, salt) for n in frame[c].unique()}) for c in named}
    )


def pseudonym(name: str, salt: bytes) -> str:
    """A name that stands for another and does not give it away without the salt."""
    return hashlib.sha256(salt + name.encode("utf-8", "surrogatepass")).hexdigest()[:16]
