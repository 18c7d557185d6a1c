"""What a rule can name: findings, figures, and the gate's own checks; and what a typo meant."""

import difflib
from collections.abc import Collection, Mapping

from arca_diag.degeneracy import DEGENERATE
from arca_diag.errors import ConfigError
from arca_diag.explanations import EXPLANATIONS
from arca_diag.explanations.gate import CHECKS

FINDING_IDS = tuple(e.id for e in EXPLANATIONS)
CHECK_IDS = tuple(e.id for e in CHECKS)
#: The regimes: a signal whose regime is not settled leaves them open.
REGIME_IDS = tuple(dict.fromkeys(DEGENERATE.values()))
#: Findings that a signal can have, at a checkpoint and in a view.
SIGNAL_IDS = (
    *REGIME_IDS,
    "credit-inconclusive",
    "completions-short",
    "numeric-noise",
    "credit-floor",
    "sharpening-only",
    "credit-structural",
    "credit-inherited",
    "credit-task-agnostic",
)
SIGNALS = (
    "surprisal",
    "entropy_reduction",
    "divergence",
    "residual",
    "entropy",
    "kl_exact",
    "relative_residual",
)

#: Names of the figures in a report's `measurements`.
FIGURES = (
    "class_explained",
    "class_explained_null",
    "class_lift",
    "class_share",
    "effn_corrected",
    "effn_corrected_change",
    "effn_inner",
    "effn_ratio",
    "floor_share",
    "gini",
    "gini_corrected",
    "gini_corrected_change",
    "gini_inner",
    "gradient_agreement",
    "gradient_agreement_factor",
    "gradient_agreement_product",
    "gradient_agreement_quotient",
    "gradient_factor_agreement",
    "groups_all_best",
    "groups_all_worst",
    "groups_without_spread",
    "inherited_tv",
    "matched_share",
    "mean",
    "noise_rank_agreement",
    "noise_share",
    "position_explained",
    "position_explained_null",
    "position_lift",
    "prefix_agreement",
    "prefix_agreement_null",
    "prefix_nodes",
    "rank_agreement",
    "rank_agreement_null",
    "rank_agreement_partial",
    "reward_gap",
    "reward_gap_p",
    "reward_gap_p_holm",
    "rotation_share",
    "short_share",
    "step_distance_max",
    "step_distance_median",
    "structural_excess",
    "token_overlap",
    "token_share_90",
    "top20_overlap",
    "top20_overlap_null",
    "type_explained",
    "type_explained_null",
    "type_overlap",
    "type_overlap_null",
)
#: Figures that are counts, p-values or facts of the tables and have no interval: the value decides.
WITHOUT_INTERVAL = (
    "prefix_nodes",
    "reward_gap_p",
    "reward_gap_p_holm",
    "step_distance_max",
    "step_distance_median",
    "token_overlap",
    "type_overlap",
)

#: Old id -> what replaced it. An id that is taken out of the package comes in here, so that a
#: policy that names it is told what to write instead.
REPLACED: dict[str, str] = {}


def unknown(what: str, name: object, known: Collection[str], where: str) -> ConfigError:
    """The error for a name that nothing has: the nearest one, or all of a short list."""
    if isinstance(name, str) and name in REPLACED:
        return ConfigError(
            f"{where}: {what} {name!r} is no more: {REPLACED[name]} replaced it",
            hint=f"write {REPLACED[name]}",
        )
    text = str(name)[:100]
    near = difflib.get_close_matches(text, sorted(known), n=1, cutoff=0.5)
    if near:
        hint = f"did you mean {near[0]}?"
    elif len(known) <= 15:
        hint = f"known: {', '.join(known)}"
    else:
        hint = "`arca-diag explain --list` names every finding and check, `config init` the figures"
    return ConfigError(f"{where}: unknown {what} {text!r}", hint=hint)


def check_keys(table: Mapping[str, object], known: Collection[str], where: str) -> None:
    """Check that a table of the policy has no key that nothing reads.

    Raises:
        ConfigError: It has; the nearest known key is named.
    """
    for key in table:
        if key not in known:
            spelled = [name.replace("_", "-") for name in known]
            raise unknown("key", key.replace("_", "-"), spelled, where)
