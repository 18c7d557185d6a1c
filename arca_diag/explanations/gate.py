"""The gate's own checks, explained: what a result must be before any rule can pass on it."""

from arca_diag.explanations.entry import Explanation

_HERE = "arca-diag gate; the policy's [gate.rules] gives a check another level, or turns it off"

CHECKS = (
    Explanation(
        id="result-incomplete",
        levels=("error",),
        says="a checkpoint that is to be judged was not measured",
        meaning="No rule can pass on what was not measured, so the gate is inconclusive.",
        measured="The report's status and its list of checkpoints.",
        confounds="--checkpoint last means the last checkpoint that the run has, measured or not.",
        actions=(
            "Read the finding that says why (checkpoint-unreadable, mostly), mend it, scan again.",
        ),
        source=_HERE,
    ),
    Explanation(
        id="evidence-too-little",
        levels=("error",),
        says="fewer prompts or tokens than the policy asks for",
        meaning="What few prompts show can be chance; a gate that passes on them fails open.",
        measured="Prompts and counted tokens of each judged checkpoint in the judged view, against "
        "min-clusters and min-tokens of the policy.",
        confounds="Completions whose steps are unknown serve the fixed set alone: judge that with "
        "--view fixed-set.",
        actions=(
            "Replay more groups (scan --groups, --fixed-groups), or log more completions.",
            "Lower min-clusters or min-tokens in the policy if you accept less.",
        ),
        source=_HERE,
    ),
    Explanation(
        id="result-stale",
        levels=("error",),
        says="the run has changed since it was scanned",
        meaning="What was measured is no longer what lies in the run: another adapter or other "
        "completions, or a newer checkpoint.",
        measured="SHA-256 of each recorded input against the file in RUN, and the newest "
        "checkpoint; only where the run is at hand: the result lies in RUN/arca-diag, or RUN was "
        "given. A judged checkpoint that the run has deleted is inconclusive; other deleted inputs "
        "are named and not compared.",
        confounds="On a machine without the run nothing can be compared, and the check is skipped.",
        actions=("Scan again; over the old result with --force, or to another folder with --out.",),
        source=_HERE,
    ),
    Explanation(
        id="result-foreign",
        levels=("error",),
        says="the report is not of this run, or its tables are not its own",
        meaning="The result was copied here from elsewhere, or mixed from two scans.",
        measured="The run beside the result holds none of the recorded inputs; or a table in the "
        "folder has another SHA-256 than the report says, or report.json another than the scan's.",
        confounds="A result without its tables, such as report.json alone, is no mixture. Whoever "
        "edits all of it alike is not noticed: these are hashes and no signatures.",
        actions=("Gate the folder that one scan wrote, whole.",),
        source=_HERE,
    ),
    Explanation(
        id="replay-unchecked",
        levels=("error",),
        says="nothing says that the replay is the run",
        meaning="Without a replay check all figures may be of another model than the run's.",
        measured="replay_fidelity of each judged checkpoint: `cannot-tell`, or absent.",
        confounds="A failed check is the finding replay-mismatch instead.",
        actions=(
            "Log completions with their steps, or log-probabilities: the check needs one of them.",
            'Turn it off in the policy where neither can be had: "replay-unchecked" = "off".',
        ),
        source=_HERE,
    ),
    Explanation(
        id="baseline-unlike",
        levels=("error",),
        says="the baseline is of something else: base, dtype, temperature, reference or view",
        meaning="Figures of unlike things are not compared; rules against the baseline are open.",
        measured="What the baseline recorded against what the report says.",
        confounds="Other completions, another tool version or another step are said and compared.",
        actions=("Start one from a like result: delete the file, then --update-baseline.",),
        source=_HERE,
    ),
    Explanation(
        id="baseline-new-findings",
        levels=("error",),
        says="a warning or an error that the baseline does not have",
        meaning="This run has a fault that the run of the baseline had not.",
        measured="Findings that the policy's rules see as warning or error, by id and signal, "
        "against those that the baseline recorded.",
        confounds="A rule that came after the baseline was written can show an old fault as new.",
        actions=(
            "Mend it; or accept it with a suppression that has a reason and an expiry date.",
            "Start a new baseline once it is accepted: delete the file, then --update-baseline.",
        ),
        source=_HERE,
    ),
)
