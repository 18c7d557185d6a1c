"""What is degenerate about a signal as credit, and why, explained: `causes.py` and `faults.py`."""

from arca_diag.explanations.entry import Explanation

_LEVELS = (
    "An error or warning only where the signal is the run's declared credit (--credit); else a "
    "note: stock trainers weight all tokens alike."
)
_HOLM = (
    "The limit of the 95% interval over prompts is past the cut, after Holm's correction over the "
    "checkpoints and signals that were asked in that view; never below 8 prompts."
)
_REGIME = (
    "G^ and e^ name the class of each completion, the milder of the two; the regime is what surely "
    "more than half of the completions are (lower limit over prompts). The verdict uses all "
    "counted tokens; `without_ends` says what it is without the first token and the closing one."
)
_CUTS = (
    "gini-sparse",
    "gini-leaning-sparse",
    "effn-sparse",
    "effn-leaning-sparse",
)

CREDIT = (
    Explanation(
        id="credit-sparse",
        levels=("error", "warn", "note"),
        says="the signal's credit sits on few tokens of a completion",
        meaning="Used as credit, the signal would give most of the reward to few tokens of "
        "each answer, and the others would hardly be trained. That is no fault by itself: the one "
        f"token may be the one that matters, so read the causes beside it. {_LEVELS}",
        measured=_REGIME,
        thresholds=(*_CUTS, "tokens-short", "share-majority", "clusters-least"),
        confounds="Short answers have a coarse G^: both figures are corrected for length, and "
        "answers under 5 tokens are left out. The same checkpoint may look healthy on old "
        "completions and sparse on its own: every figure names its view and its distance in "
        "steps. Completions that occur often count as often; the number of distinct ones is "
        "printed. The published experiments squared their scores without saying so: see "
        "sharpening-only. Entropy reduction is sparse by construction: see credit-structural. So "
        "is credit on the top fifth of tokens in `what_if`: a G^ of about .8 whatever the signal.",
        actions=(
            "If it is the run's credit, weight evenly: TRL top_entropy_quantile=1.0; verl and "
            "prime-rl: the stock loss.",
            "Or weight by a signal in the middle: `what_if` of report.json shows how others "
            "would spread.",
            "If it is not, nothing: it says what would happen.",
        ),
        source="spuriously sparse credit: ARCA, arXiv 2606.00257v1; the cuts are this tool's own",
    ),
    Explanation(
        id="credit-uniform",
        levels=("error", "warn", "note"),
        says="the signal's credit is near even over the tokens",
        meaning="Used as credit, the signal would do what even credit does, and cost a pass more. "
        "ARCA's residual is judged by the same rule: in runs that learn well it drifts there. "
        f"{_LEVELS}",
        measured=_REGIME,
        thresholds=(
            "gini-uniform",
            "gini-leaning-uniform",
            "effn-uniform",
            "effn-leaning-uniform",
            "share-majority",
        ),
        confounds="Rounding flattens a small residual (see numeric-noise), epsilon flattens a "
        "small signal (see credit-floor), and a signal that is zero throughout is credit-absent, "
        "not uniform.",
        actions=(
            "If it is the run's credit, drop it or sharpen it: `what_if` has s = 2.",
            "If it is not, nothing.",
        ),
        source="uniform broadcast: ARCA, arXiv 2606.00257v1; the cuts are this tool's own",
    ),
    Explanation(
        id="credit-absent",
        levels=("error", "warn", "note"),
        says="the signal is exactly zero on every token",
        meaning="There is nothing to weight by. Trainers that add epsilon would give even credit "
        f"here, and log it as if it were a signal. {_LEVELS}",
        measured="Exact comparison with 0 of every counted token; a fact that needs no minimum.",
        confounds="At the start of training B is 0 and so is every signal of the adapter. In "
        "bfloat16 a small residual rounds to 0: a subsample in float32 tells, and then it is "
        "numeric-noise.",
        actions=("See adapter-inert.", "Scan with --dtype float32."),
        source="a fact",
    ),
    Explanation(
        id="credit-inconclusive",
        levels=("note",),
        says="whether the run's credit is degenerate is not settled",
        meaning="The interval over prompts has the cut in it, or there are under 8 prompts. It is "
        "neither a pass nor a fault.",
        measured="As credit-sparse; given for the declared credit alone. `settled_by` of the "
        "verdict says how many more prompts like these would do.",
        thresholds=("share-majority", "clusters-least"),
        confounds="More completions of the same prompts do not help: prompts are the unit.",
        actions=("Replay more prompts: --groups, --fixed-groups.",),
        source="the unit of evidence is the prompt",
    ),
    Explanation(
        id="completions-short",
        levels=("error", "warn", "note"),
        says="most completions are too short for any cut to mean something",
        meaning="Under 5 tokens a signal without any structure looks sparse more than once in a "
        f"hundred times, and no regime is judged. {_LEVELS}",
        measured=f"Share of completions under `tokens-short` counted tokens. {_HOLM}",
        thresholds=("short-share", "tokens-short"),
        confounds="Masked tokens (tool output) do not count: a long answer can have few counted "
        "tokens.",
        actions=("Judge on longer answers (--rollouts), or not at all.",),
        source="exponential scores reach G^ >= .85 with a chance of .015 at 4 tokens, .0054 at 5",
    ),
    Explanation(
        id="numeric-noise",
        levels=("error", "warn", "note"),
        says="rounding alone makes up a tenth of the signal or more",
        meaning="Every figure of the signal here is as much rounding as signal, and its regime is "
        "withheld. Plausible figures come out of pure noise: a bfloat16 replay gave a residual 11 "
        f"times too large that looked near even. {_LEVELS}",
        measured="The same tokens replayed in another batch composition and, below float32, in "
        "float32: noise over signal, summed over a completion. The noise of a residual is the "
        f"norm of the difference of the two residual vectors, not of their norms. {_HOLM} The "
        "regime is withheld wherever the noise is not surely below the cut.",
        thresholds=("noise-share",),
        confounds="A signal that is exactly 0 in both replays has no noise: it is absent. The "
        "subsample holds one completion of each of up to 16 prompts.",
        actions=(
            "Scan with --dtype float32 (or float64).",
            "If it was the run's credit, the trainer computed it with that noise as well: compute "
            "it in float32 there.",
        ),
        source="measured: an adapter scaled by 1e-3, replayed in bfloat16",
    ),
    Explanation(
        id="credit-floor",
        levels=("error", "warn", "note"),
        says="most of the credit is epsilon, the same for every token",
        meaning="The signal is so small that the floor added to every score outweighs it: the "
        f"credit is even whatever the signal says. {_LEVELS}",
        measured=f"T epsilon / sum(alpha + epsilon) of each completion. {_HOLM}",
        thresholds=("floor-share",),
        confounds="It depends on --epsilon: give the trainer's.",
        actions=("Lower epsilon well below the signal's mean.", "Or use another signal."),
        source="ARCA, Eq. 8; its epsilon is unstated, the published code has 1e-8",
    ),
    Explanation(
        id="sharpening-only",
        levels=("error", "warn", "note"),
        says="the regime is the power's: at s = 1 it is another",
        meaning="The signal itself is not what the verdict says; raising scores to a power made it "
        f"so. Squaring alone moved a Gini from .595 to .793 in a real run. {_LEVELS}",
        measured="Regimes at --sharpening and at 1 are both settled and lie on different sides; or "
        "it is sparse (uniform) at --sharpening, and at 1 surely less than half of the completions "
        "are.",
        thresholds=("share-majority",),
        confounds="Both regimes have to be settled, so that a near miss of a cut says nothing.",
        actions=("Train with s = 1, or say the power beside the result.",),
        source="ARCA's published experiments used s = 2, which the paper does not mention",
    ),
    Explanation(
        id="credit-structural",
        levels=("error", "warn", "note"),
        says="the concentration is what the signal's construction gives",
        meaning="Entropy reduction is exactly 0 wherever entropy rises, at about half of all "
        "tokens: it looks sparse on any text. Here the same entropies in random order look as "
        f"sparse, or more so. {_LEVELS}",
        measured="G^ less the mean G^ of the same completion's entropies permuted; the upper limit "
        "has to be below the margin. There is no lower one: what random order would exceed, the "
        "construction gives all the more. Asked of entropy reduction only, where its regime is on "
        "the sparse side or inconclusive: spread-out credit has no concentration to explain. "
        f"{_HOLM}",
        thresholds=("structural-excess",),
        confounds="Too few prompts give a wide interval and no call: 'not significant' is never "
        "taken for 'the same'.",
        actions=("Compare it with its own null, not with other signals.",),
        source="exponential entropies in random order: G^ .763 at 40 tokens, .835 at 7",
    ),
    Explanation(
        id="credit-inherited",
        levels=("error", "warn", "note"),
        says="nine tenths of the credit are where the reference alone puts it",
        meaning="The signal's profile is the base's, not what training changed: early in training "
        f"surprisal follows the reference almost token by token. {_LEVELS}",
        measured="Total variation between the signal's weights under the policy and under the "
        f"reference, on the same tokens. {_HOLM} Surprisal, entropy and entropy reduction. The "
        "figure is skewed, and a few prompts of it look too small: the interval allows for that, "
        "and a call needs a p-value of .015.",
        thresholds=("inherited-tv", "noise-share"),
        confounds="An adapter that moves nothing inherits everything: asked only where kl_exact is "
        "surely above its own noise. The reference has to be the run's: see reference-uncertain.",
        actions=(
            "To see what the adapter changed, use divergence, kl_exact or the residual.",
            "If it is the run's credit, it favours what the base finds surprising.",
        ),
        source="ARCA, Prop. 1 (whose printed bound lacks a factor T)",
    ),
    Explanation(
        id="credit-task-agnostic",
        levels=("error", "warn", "note"),
        says="what kind of token it is, or where it stands, gives the credit whatever the task",
        meaning="A table of token types, classes or places, learned on other prompts, gives most "
        "of what sets this credit apart from even credit: it would be the same whatever was "
        f"asked. {_LEVELS}",
        measured="1 - TV(w, predicted) / TV(w, even), the prediction from the other prompts' mean "
        "credit of each type, class or tenth of the completion. The best of the three, its "
        "p-value times three, and above the same with weights permuted within each answer. "
        f"{_HOLM} Here not below `agnostic-prompts`.",
        thresholds=("agnostic-share", "agnostic-prompts"),
        confounds="Answers that are nearly one template make type, place and context the same "
        "thing: token_overlap is near 1 then; compare the fixed set. The first and the closing "
        "token are special for every signal: class_lift and position_lift name them.",
        actions=(
            "Look at class_lift and position_lift in report.json: which tokens hold it?",
            "Mask those tokens in the loss, or weight evenly.",
        ),
        source="this tool's own statistic; its null keeps every answer's tokens",
    ),
)
