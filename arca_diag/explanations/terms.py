"""The words that verdicts use, explained: regimes (`verdict.py`) and figures read beside them."""

from arca_diag.explanations.entry import Term

_MAJORITY = ("share-majority", "clusters-least")
_EACH = (
    "Of one completion: G^ and e^ each name a class by the cuts below, and the milder of the two "
    "holds."
)
_RUN = (
    "Of a checkpoint, view and signal: surely more than half of the completions have it, the lower "
    "limit of the 95% interval over prompts being above the cut; never below 8 prompts."
)
_POINTWISE = (
    "Each interval is of one signal at one checkpoint and is not corrected for how many are looked "
    "at; where many sit at the cut, a few calls in a hundred are wrong."
)
_CUTS_OWN = (
    "the words are ARCA's (arXiv 2606.00257v1), which gives no cuts: the author's poster shades "
    "Gini .25 to .60, the others are this tool's own"
)
_USE = "If it is the run's credit: see credit-{}, and the cause beside it."
_ELSE = "If it is not: nothing; it says what would happen if it were."

TERMS: tuple[Term, ...] = (
    Term(
        id="sparse",
        says="a regime: hardly any token but a few has credit",
        rule=f"{_EACH} {_RUN} It comes before leaning-sparse, where both hold. {_POINTWISE}",
        thresholds=("gini-sparse", "effn-sparse", *_MAJORITY),
        looks="Credit as if on one token in eight, or on fewer; the Lorenz curve leaps up at "
        "once. Of an answer of ten tokens about two are left in effect.",
        actions=(_USE.format("sparse"), _ELSE, "Look which tokens: class_lift, position_lift."),
        source=_CUTS_OWN,
    ),
    Term(
        id="leaning-sparse",
        says="a regime: credit sits on fewer tokens than the middle has",
        rule="Of one completion: the class between middle and sparse. Of a checkpoint, view and "
        "signal: surely more than half of the completions are leaning-sparse or sparse, and not "
        f"surely more than half are sparse. {_POINTWISE}",
        thresholds=("gini-leaning-sparse", "effn-leaning-sparse", *_MAJORITY),
        looks="Credit as if on one token in three to eight. Entropy reduction looks so on any "
        "text: see credit-structural.",
        actions=(_USE.format("sparse"), _ELSE),
        source=_CUTS_OWN,
    ),
    Term(
        id="middle",
        says="a regime: credit tells tokens apart and rests on many",
        rule="Of one completion: G^ and e^ are not both past the cuts of one side. "
        f"{_RUN} {_POINTWISE}",
        thresholds=(
            "gini-leaning-uniform",
            "gini-leaning-sparse",
            "effn-leaning-uniform",
            "effn-leaning-sparse",
            *_MAJORITY,
        ),
        looks="Scores without any structure (exponential ones) look so, with G^ .50 on average: "
        "the middle is not proof that the signal means something.",
        actions=("Nothing.", "Ask what it follows: reward_gap, prefix_agreement, --gradients."),
        source=_CUTS_OWN,
    ),
    Term(
        id="leaning-uniform",
        says="a regime: credit is more even than the middle has",
        rule="Of one completion: the class between uniform and middle. Of a checkpoint, view and "
        "signal: surely more than half of the completions are leaning-uniform or uniform, and not "
        f"surely more than half are uniform. {_POINTWISE}",
        thresholds=("gini-leaning-uniform", "effn-leaning-uniform", *_MAJORITY),
        looks="Credit strays from its average by a quarter to a half of it. ARCA's residual is "
        "often here in runs that learn well.",
        actions=(_USE.format("uniform"), _ELSE),
        source=_CUTS_OWN,
    ),
    Term(
        id="uniform",
        says="a regime: credit is near even over the tokens",
        rule=f"{_EACH} {_RUN} It comes before leaning-uniform, where both hold. {_POINTWISE}",
        thresholds=("gini-uniform", "effn-uniform", *_MAJORITY),
        looks="The Lorenz curve is next to the diagonal. Weighting by it does what even credit "
        "does. It is never said of scores that are all zero: that is no-signal.",
        actions=(_USE.format("uniform"), "Is it epsilon? See credit-floor.", _ELSE),
        source=_CUTS_OWN,
    ),
    Term(
        id="no-signal",
        says="a regime: every raw score is exactly zero",
        rule="Of one completion: every counted raw score is exactly 0. Of a checkpoint, view and "
        "signal: every completion is so, which is a fact and needs no minimum, or surely more than "
        "half are, from 8 prompts on.",
        thresholds=_MAJORITY,
        looks="No G^ and no e^. At step 0 every LoRA has B = 0, so that residual, divergence and "
        "KL are all here.",
        actions=("See credit-absent and adapter-inert.",),
        source="a fact",
    ),
    Term(
        id="mixed",
        says="a regime: surely no side has half of the completions",
        rule="The upper limits of the shares of the sparse side, the uniform side, the middle and "
        f"no-signal are all below the cut, from 8 prompts on. {_POINTWISE}",
        thresholds=_MAJORITY,
        looks="Some completions sparse, some even: often two kinds of prompts in one run.",
        actions=(
            "Look at `shares` of the verdict in report.json, and at trajectories.parquet by "
            "prompt: which completions are which?",
        ),
        source="this tool's own",
    ),
    Term(
        id="inconclusive",
        says="no regime is sure: neither a pass nor a fault",
        rule="The interval of the largest side has the cut in it; or there are under 8 prompts; or "
        "every completion is short; or rounding may have made the signal (see numeric-noise), and "
        "then every figure of it is doubtful. `settled_by` of the verdict says which.",
        thresholds=(*_MAJORITY, "noise-share", "tokens-short"),
        looks="`most: leaning-sparse` in the table names the side that most completions are on, "
        "with its share; the line below it says how many more prompts would settle it.",
        actions=(
            "Replay more prompts: --groups, --fixed-groups. More completions of the same prompts "
            "do not help.",
            "Where rounding is named: --dtype float32, or float64.",
        ),
        source="the unit of evidence is the prompt",
    ),
    Term(
        id="undefined",
        says="no completion counts two tokens: there is nothing to spread",
        rule="Of a checkpoint, view and signal: no completion counts two tokens or more.",
        looks="No figure at all.",
        actions=("Look at completion_mask: does it leave out what was trained on?",),
        source="the range of G and EffN / T is a point below two tokens",
    ),
    Term(
        id="short",
        says="a class, of a completion: too few tokens to be judged",
        rule="Fewer counted tokens than the cut. Left out of the shares and counted in `left_out` "
        "of the verdict; means of G^ and e^ keep it.",
        thresholds=("tokens-short",),
        looks="Answers such as `42` and an end token.",
        actions=("See completions-short.",),
        source="exponential scores reach G^ >= .85 with a chance of .015 at 4 tokens, .0054 at 5",
    ),
    Term(
        id="onset",
        says="since when credit is on one side, on the fixed set",
        rule="The share of completions on the side at every checkpoint with its 95% interval over "
        "prompts: surely not more than half at `after`, surely more than half from `by` to the "
        "last. Each interval stands for itself: nothing is corrected for the number of "
        "checkpoints, signals and sides, and neighbours share their prompts, so a bracket can be "
        "off by a checkpoint more often than 5 times in a hundred.",
        thresholds=_MAJORITY,
        looks="`on the uniform side from step 30 on, not yet at step 2`; `or before` where the "
        "first checkpoint was there already. No onset is given for a signal that rounding may "
        "have made.",
        actions=(
            "To know it finer, keep more checkpoints between `after` and `by`.",
            "To be surer, replay more prompts: --fixed-groups.",
        ),
        source="read off the order of the checkpoints; see arca_diag/onset.py",
    ),
    Term(
        id="reward_gap",
        says="does credit know the reward: G^ of good less G^ of bad completions",
        rule="Of a group's completions at like length, without the first and the closing token; "
        "duplicates count once, groups without spread are left out. The interval over prompts is "
        "of one signal, view and checkpoint (pointwise). `reward_gap_p` permutes advantages within "
        "groups, one figure by itself; `reward_gap_p_holm` is corrected by Holm over the seven "
        "signals of one checkpoint and view, and not over checkpoints and views.",
        looks="0: good and bad completions are credited alike. It is evidence, and decides no "
        "verdict.",
        actions=(
            "Believe a gap only where reward_gap_p_holm is small.",
            "With many checkpoints, expect one in twenty to be small by chance.",
        ),
        source="permutation of advantages within groups, as under exchangeability of completions",
    ),
    Term(
        id="gini_corrected",
        also=("G^", "gini"),
        says="G^: how uneven credit is within a completion, 0 even, 1 all on one token",
        rule="The Gini coefficient of the weights of the T counted tokens, times T / (T - 1): what "
        "the length alone allows is taken out. Undefined below two tokens and where there is no "
        "credit. A checkpoint's figure is the mean over prompts of the means over their "
        f"completions, with its interval over prompts. {_POINTWISE}",
        thresholds=("gini-uniform", "gini-leaning-uniform", "gini-leaning-sparse", "gini-sparse"),
        looks="Twice the area between the Lorenz curve and the diagonal; `.93/.05` in a table is "
        "G^ and e^. Scores without any structure have .50.",
        actions=("Read it beside e^: a regime is what both say, and the milder holds.",),
        source="Damgaard & Weiner 2000, and the correction of its range",
    ),
    Term(
        id="effn_corrected",
        also=("e^", "effn_ratio", "effn"),
        says="e^: the share of effective tokens, 1 even, 0 all on one token",
        rule="EffN = 1 / sum of w^2 over the weights of the T counted tokens, which sum to 1; "
        "e^ = (EffN - 1) / (T - 1): what the length alone allows is taken out. Undefined as G^ is, "
        f"and averaged like it. {_POINTWISE}",
        thresholds=("effn-uniform", "effn-leaning-uniform", "effn-leaning-sparse", "effn-sparse"),
        looks="`effn_ratio` is EffN / T, not corrected: `one token in nine or so` of the headline.",
        actions=("Read it beside G^: a regime is what both say, and the milder holds.",),
        source="Hill 1973, order 2, and the correction of its range",
    ),
    Term(
        id="residual",
        also=("ARCA", "arca"),
        says="a signal: the norm of h_adapted - h_ref at a token, what ARCA credits",
        rule="L2 norm of the difference of both models' hidden states after the final norm, at the "
        "place whose output predicts the token, in the hidden state's own units; "
        "relative_residual is that over the norm of h_ref. Exactly 0 where the adapter does "
        "nothing.",
        looks="Often near even: see uniform, and credit-floor for what epsilon makes of it.",
        actions=(
            "Compare its regime with those of surprisal and entropy at the same checkpoint.",
            "Before crediting by it: credit that is near even is hardly credit, and "
            "`prefix_agreement`, `reward_gap` and --gradients say what else it is.",
        ),
        source="ARCA (arXiv 2606.00257v1), Eq. 15",
    ),
)
