"""What about a run's completions limits its figures, explained. The rules are in `findings.py`."""

from arca_diag.explanations.entry import Explanation

_READERS = "what trainers write; the README lists what is read"

COMPLETIONS = (
    Explanation(
        id="ids-retokenised",
        levels=("warn",),
        says="completions are text and were tokenised again; ids may differ from those sampled",
        meaning="A model samples tokens, and one text has many tokenisations. Where they differ, "
        "what is replayed was never sampled, and it differs most at the surprising tokens that "
        "credit is about. The closing end token is not scored.",
        measured="Counted: completions whose rollout file holds no token ids, of those found "
        "(`inspect`) or replayed (`scan`). Exact; how many ids differ cannot be known.",
        confounds="None: the count is exact. With 1% of tokens off the canonical way, 64 tokens "
        "come back exact 94% of the time and 1,024 tokens 53%.",
        actions=(
            "TRL: log_completions=True and the reward function arca_diag.trl.recorder(), which "
            "records exact ids.",
            "prime-rl: trainer.enable_token_export=true. open-instruct: --save_traces.",
            "verl keeps text only (trainer.rollout_data_dir): hand ids over as canonical JSONL.",
        ),
        source="round trips of sequences with planted off-canonical tokens, byte-level BPE",
    ),
    Explanation(
        id="prompts-guessed",
        levels=("warn",),
        says="prompts were put together again, and may differ from those of the training",
        meaning="The policy is replayed on a prompt that is not quite the one it answered: special "
        "tokens were lost in the dump, or the chat template writes today's date. All figures of "
        "the completion shift with its prompt, the first tokens most.",
        measured="Counted: completions of verl dumps without special tokens in their prompt, of "
        "TRL tables with tool turns, and of templates that write the date. Exact; what differs "
        "cannot be known.",
        confounds="The prompt put together may be right. The replay check tells where the run "
        "logged enough.",
        actions=(
            "Hand the completions over as canonical JSONL with prompt_ids (--rollouts).",
            "Templates that write a date: fix it in training (TRL chat_template_kwargs; verl "
            "data.apply_chat_template_kwargs).",
        ),
        source="verl decodes prompts with skip_special_tokens=True",
    ),
    Explanation(
        id="completions-left-out",
        levels=("warn",),
        says="completions that cannot be replayed, by the reason why",
        meaning="The figures are of the rest. If what was left out differs in kind (all that used "
        "tools, all that were masked), they are not those of the run.",
        measured="Counted by the reader of the format, a finding a reason: empty, tool or other "
        "turns in a text, images, no trained token, a failed rollout, an unfinished export. Exact.",
        confounds="Completions of evaluations are not among them (rollouts-evaluation), nor are "
        "groups dropped by --skip-bad-lines.",
        actions=(
            "Record token ids and masks (canonical JSONL; prime-rl "
            "trainer.enable_token_export=true).",
            "Or read the figures as those of the rest.",
        ),
        source=_READERS,
    ),
    Explanation(
        id="rollouts-evaluation",
        levels=("note",),
        says="completions that an evaluation sampled are left out",
        meaning="Evaluations use other prompts, often another temperature, and no advantage. They "
        "say nothing of the credit in training, so they are not measured.",
        measured="Counted: what the format says is of an evaluation; for TRL, whose evaluations "
        "overwrite the file of their step, the steps at which its log or arguments say that it "
        "evaluated. A file with any of them is left out whole.",
        confounds="A training batch can be lost with the evaluation that overwrote it: the file "
        "holds one of them.",
        actions=(
            "Nothing, where training completions remain.",
            "Else evaluate in a run of its own, or at other steps (TRL eval_steps).",
        ),
        source="TRL 1.16 logs training and evaluation into one file a step",
    ),
    Explanation(
        id="rollouts-generated",
        levels=("note",),
        says="the completions were sampled by this scan; they are not the run's own",
        meaning="They show how each checkpoint answers your prompts now: on-policy, but not what "
        "it was trained on. They have no reward and no advantage.",
        measured="--generate completions a prompt, sampled from each checkpoint at the run's "
        "temperature with a fixed --seed.",
        confounds="Prompts unlike those of training show another policy. Nothing the run logged is "
        "of these completions: the replay check has little to compare.",
        actions=(
            "To measure the run's own, train with log_completions=True and "
            "arca_diag.trl.recorder() (TRL), trainer.enable_token_export=true (prime-rl) or "
            "trainer.rollout_data_dir=DIR (verl).",
        ),
        source="a fact",
    ),
    Explanation(
        id="rollouts-missing",
        levels=("warn",),
        says="the run left no completions",
        meaning="There is nothing to replay: `scan` stops. What `inspect` says of adapters and log "
        "holds.",
        measured="The places where each trainer writes completions. Exact.",
        confounds="Completions in another folder are not found: --rollouts names it.",
        actions=(
            "Give them: --rollouts PATH (with --columns where the format is your own).",
            "Or sample some: --prompts FILE --generate 8.",
            "For the next run: TRL log_completions=True (from 0.28.0); verl "
            "trainer.rollout_data_dir=DIR; prime-rl trainer.enable_token_export=true.",
        ),
        source="TRL before 0.28.0 writes no file; all of these switches are off by default",
    ),
    Explanation(
        id="rollouts-unreadable",
        levels=("error",),
        says="its completions cannot be read; file and line",
        meaning="A file that should hold completions does not. `scan` stops rather than measure "
        "what is left.",
        measured="Every line of the file, by its format: all faults at once, up to 20. Exact.",
        confounds="A file that training is still writing ends in half a line: scan a copy. A "
        "format that was recognised wrongly: name the file itself with --rollouts.",
        actions=(
            "Mend or remove the lines that are named.",
            "Or drop their groups, at most 1% of all: --skip-bad-lines.",
            "A format of your own: --columns prompt=...,completion=....",
        ),
        source=_READERS,
    ),
    Explanation(
        id="steps-unknown",
        levels=("note",),
        says="nothing says which policy sampled the completions: fixed set only",
        meaning="A checkpoint can be compared with others on the same completions, but not judged "
        "on its own: there are no on-policy figures. A late checkpoint is sure of its own "
        "completions and not of early ones.",
        measured="Fields and file names that hold a step. Exact: they are there or not.",
        confounds="None. A wrong step is worse than none: the replay check sees one where a "
        "checkpoint's own samples surprise it.",
        actions=(
            "Give every completion its `step`: the optimizer steps done by the policy that "
            "sampled it, 0 at first.",
        ),
        source="the canonical format; see the README",
    ),
    Explanation(
        id="no-own-rollouts",
        levels=("note",),
        says="no completion lies near this checkpoint: it has no on-policy figures",
        meaning="The nearest completions were sampled by a policy that is too many steps away to "
        "stand for this one. Its figures on the fixed set hold.",
        measured="Distance in steps between the checkpoint and the policies that sampled, against "
        "--window: a tenth of the run's steps, and at least two logging intervals. Exact.",
        confounds="Steps that are off by one (a file is named after the step that it trained) are "
        "mended by the readers.",
        actions=(
            "Log every batch (TRL logging_steps=1, log_completions=True), and train one step past "
            "the last checkpoint.",
            "Give the completions their `step`.",
            "Or widen --window, and read the distance beside every figure.",
        ),
        source="TRL writes the batch of step k into completions_k, sampled by the policy of "
        "step k - 1",
    ),
)
