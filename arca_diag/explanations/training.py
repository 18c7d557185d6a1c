"""What the trainer's log and the replay say of a run, explained: `logs.py` and `fidelity/`."""

from arca_diag.explanations.entry import Explanation

_ONLY_HF = "Only a log in trainer_state.json is read (TRL, Unsloth, axolotl, ms-swift)."

REPLAY = (
    Explanation(
        id="reference-apart",
        levels=("warn",),
        says="the first step logged a KL above rounding: the run did not start at its reference",
        meaning="The policy was pulled towards another model than the one it started from, from "
        "the first step on. Divergence, KL and residual include a distance that no training made.",
        measured=f"kl of the log's entry at step 1, in nats. One entry, no interval. {_ONLY_HF}",
        thresholds=("kl-at-start",),
        confounds="Only an entry of step 1 itself is judged: later ones hold a KL that training "
        "made. A run that goes on from an adapter is held to the base by TRL before 0.27 and by "
        "verl, which may be meant.",
        actions=(
            "Is the reference the model that training started from? A run that continued an "
            "adapter: TRL from 0.27.0 on clones it as ref/.",
            "PiSSA and OLoRA: TRL takes the base that the adapter's start has rewritten; use "
            "init_lora_weights=True, or beta=0.0.",
            "Give the one you mean to this tool with --reference.",
        ),
        source="a PiSSA run of TRL 1.16 measured against its residual base logged 8.7e-4",
    ),
    Explanation(
        id="replay-mismatch",
        levels=("error", "warn"),
        says="the replay does not give what the run logged",
        meaning="The model that was put together here is not the policy of the run, or the "
        "completions are not its own. Until that is mended no figure of this checkpoint is the "
        "run's, and an error says to believe none.",
        measured="Log-probabilities per token against those the trainer, else the sampler, kept, "
        "on completions of the checkpoint's own step: mean |difference| in nats. Else the means "
        "of entropy and k3 KL over the batch that the log's entry is of, relative to what was "
        "logged, or of entropy to .2 nats if that is more. And always on completions of its own "
        "step: mean(surprisal - entropy) over mean entropy, 0 on a policy's own samples; the "
        "lower limit of its 95% interval (Student's over prompts) decides.",
        thresholds=(
            "fidelity-logprob-warn",
            "fidelity-logprob-fail",
            "fidelity-entropy-warn",
            "fidelity-entropy-fail",
            "fidelity-entropy-floor",
            "fidelity-kl-warn",
            "fidelity-kl-fail",
            "fidelity-kl-floor",
            "fidelity-surprise-warn",
            "fidelity-surprise-fail",
            "fidelity-surprise-prompts",
            "fidelity-surprise-text",
            "fidelity-surprise-floor",
        ),
        confounds="A batch replayed in part, or an entry that averages steps, gets the half width "
        "of its interval on top of the tolerance; text without end tokens gets their share. A KL "
        "or entropy that was logged of another model or temperature is not compared (TRL before "
        "0.16, PiSSA, trained biases, --reference). Top-p sampling lowers the surprise and is not "
        "counted. Where nothing was logged the check says cannot-tell.",
        actions=(
            "Check --temperature, the chat template (TRL chat_template_kwargs), and --base.",
            "Check use_rslora and lora_alpha in adapter_config.json: see rslora-lost.",
            "Do checkpoint and completions belong together? Compare steps.",
            "KL alone is off: check --reference.",
            "To give the check more: verl actor_rollout_ref.rollout.calculate_log_probs; prime-rl "
            "trainer.enable_token_export=true; TRL logging_steps=1.",
        ),
        source="trl issue 4772: vLLM and a plain forward differ by about .012 nats a token. k3: "
        "Schulman, Approximating KL divergence (2020)",
    ),
    Explanation(
        id="sampler-mismatch",
        levels=("error", "warn"),
        says="sampler and trainer disagree about the same tokens, by the trainer's log",
        meaning="vLLM sampled from one distribution and the gradient was taken of another: the "
        "run is off-policy at every step. It can make a run that looks well set up not learn, or "
        "collapse late.",
        measured="Mean over the log's entries of sampling/sampling_logp_difference/mean, in nats a "
        f"token. A point figure, no interval; the largest entry stands beside it. {_ONLY_HF}",
        thresholds=("sampler-mismatch-warn", "sampler-mismatch-error"),
        confounds="Two engines differ by about .012 nats in any case. Mixture-of-experts models "
        "differ more, as routing flips. A single broken step raises the mean: see the largest.",
        actions=(
            "Same precision on both sides, and token ids handed over as ids, not as text.",
            "Same temperature on both sides (TRL temperature; verl "
            "actor_rollout_ref.rollout.temperature; prime-rl sampling.temperature).",
            "Importance sampling (TRL vllm_importance_sampling_correction; verl "
            "algorithm.rollout_correction.rollout_is) bounds the harm and hides the cause.",
        ),
        source="trl issue 4772: about .012 nats a token is ordinary",
    ),
)

LOG = (
    Explanation(
        id="no-advantage",
        levels=("error", "warn", "note"),
        says="groups without spread in reward teach nothing",
        meaning="Where all completions of a group earn the same, every advantage is 0 and so is "
        "the gradient, whatever credit is given to tokens. A run can sample for hours and learn "
        "from a few groups.",
        measured="frac_reward_zero_std of the log. Error and warning: the lower limit of the 95% "
        "interval of its mean, Student's over entries; Clopper-Pearson's over groups where all "
        "entries are 1; 0 for a single entry below 1. Note: the mean of the last tenth alone is "
        f"above the cut of the warning. {_ONLY_HF} Unless the log says it: the share of the "
        "replayed groups of the fixed set, its interval over prompts, from 8 prompts on. TRL's "
        "figure misses equal rewards whose deviation is rounded (eight of 1.2 or .7), and with "
        "`scale_rewards='batch'` it is of batches.",
        thresholds=("no-advantage-warn", "no-advantage-error"),
        confounds="A task that is solved has no spread at the end: that is a note, with the reward "
        "beside it. Entries next to each other are alike, so the interval is a little narrow.",
        actions=(
            "Mix in prompts that are sometimes solved; drop the others (verl "
            "algorithm.filter_groups.enable in DAPO; prime-rl buffer.online_difficulty_filtering "
            "in versions that have it).",
            "Sample more completions a group (TRL num_generations; verl "
            "actor_rollout_ref.rollout.n; prime-rl group_size, once rollouts_per_example).",
            "Grade the reward more finely, or raise the temperature.",
        ),
        source="GRPO's advantage is the reward less its group's mean (arXiv 2402.03300); groups "
        "without spread are filtered in DAPO (arXiv 2503.14476)",
    ),
    Explanation(
        id="entropy-collapsed",
        levels=("error",),
        says="entropy is under a tenth, half of the late groups hold one answer, and the reward "
        "does not rise",
        meaning="The policy gives one answer and explores no more: groups have no spread, so there "
        "is nothing to learn from, and credit signals pile up on the few tokens that are still "
        "open. All three must hold.",
        measured="Mean entropy of the log's last tenth over that of its first; share of the last "
        "tenth of the groups, by step, whose completions are all the same; the reward of the last "
        "tenth over that of the first by Welch's test, one-sided at 2.5% (the bare difference "
        f"below two entries a side). {_ONLY_HF}",
        thresholds=("entropy-collapse-ratio", "entropy-collapse-distinct"),
        confounds="Entropy that falls while the reward rises is learning: not judged a collapse. "
        "Groups are counted only where the completions' steps are known, else see entropy-low. A "
        "change of temperature or of prompts during the run moves entropy too.",
        actions=(
            "Go back to the last checkpoint before the fall.",
            "Lower the learning rate (TRL learning_rate; verl actor_rollout_ref.actor.optim.lr; "
            "prime-rl trainer.optim.lr).",
            "Add an entropy bonus (TRL entropy_coef or use_adaptive_entropy, in versions that "
            "have them; verl actor_rollout_ref.actor.entropy_coeff), raise the temperature, or "
            "clip higher (TRL epsilon_high; verl actor_rollout_ref.actor.clip_ratio_high).",
        ),
        source="a run that learnt well (reward .33 to .80) ended at .12 of .32 nats, so a third is "
        "healthy; clip-higher: DAPO (arXiv 2503.14476)",
    ),
    Explanation(
        id="entropy-low",
        levels=("warn", "note"),
        says="the entropy alone fell that far, or it is not known what the groups hold",
        meaning="One of the three signs of a collapse, without the others. A note: the reward rose "
        "or groups still hold several answers, which is how runs learn. A warning: the reward did "
        "not rise, and no completions tell whether groups hold one answer.",
        measured="As entropy-collapsed.",
        thresholds=("entropy-collapse-ratio", "entropy-collapse-distinct"),
        confounds="As entropy-collapsed; a task with one short answer has little entropy by right.",
        actions=(
            "Nothing, unless the reward has stopped rising.",
            "Keep completions, so that the groups can be told: TRL log_completions=True.",
            "If it has, act as for entropy-collapsed.",
        ),
        source="as entropy-collapsed",
    ),
    Explanation(
        id="nothing-moves",
        levels=("error",),
        says="gradient norm or learning rate is exactly 0 throughout",
        meaning="No parameter was changed by the whole run: the adapter is the one it started "
        "with. Rewards still go up and down, because completions are sampled.",
        measured="grad_norm and learning_rate of the log: two entries or more, all exactly 0; "
        f"entries that are no finite number aside. {_ONLY_HF}",
        confounds="Values that a log rounds to 0 look the same. One zero entry is no fault: a "
        "warm-up starts at 0.",
        actions=(
            "Is the adapter trainable: PeftModel.from_pretrained(..., is_trainable=True), "
            "print_trainable_parameters()?",
            "Does the reward vary within groups? See no-advantage.",
            "Look at the schedule: TRL learning_rate, lr_scheduler_type and warmup_steps.",
        ),
        source="a fact",
    ),
    Explanation(
        id="gradients-broken",
        levels=("error", "warn"),
        says="gradient norms are NaN or infinite",
        meaning="A step with such a gradient is skipped or spoils the weights. An error says every "
        "entry is so: nothing good was learnt.",
        measured=f"grad_norm of the log: entries that are no finite number, counted. {_ONLY_HF}",
        confounds="With a loss scaler (fp16) a few infinite norms at the start are ordinary: a "
        "warning, with their count.",
        actions=(
            "Look at the first entry that breaks, and at its completions.",
            "Lower the learning rate or clip harder: TRL learning_rate, max_grad_norm; verl "
            "actor_rollout_ref.actor.optim.lr, actor_rollout_ref.actor.grad_clip; prime-rl "
            "trainer.optim.lr, trainer.optim.max_norm.",
            "Train in bf16 instead of fp16.",
        ),
        source="a fact",
    ),
    Explanation(
        id="completions-truncated",
        levels=("warn",),
        says="most late completions end at the length limit",
        meaning="Most rewards are of answers that were cut off, so the run learns what fits, not "
        "what is right. A cut completion has no closing end token: what signals give to that token "
        "is missing.",
        measured="Mean of completions/clipped_ratio over the log's last tenth of entries. A point "
        f"figure, no interval. {_ONLY_HF}",
        thresholds=("completions-truncated",),
        confounds="A model that never ends its turn (another end token, a base model) is cut off "
        "at any limit.",
        actions=(
            "Raise the limit: TRL max_completion_length; verl data.max_response_length; prime-rl "
            "sampling.max_completion_tokens (once max_tokens).",
            "Reward finishing, or leave cut completions out of the loss: TRL "
            "mask_truncated_completions.",
            "Does the end token of the template end a completion?",
        ),
        source="a majority; overlong completions as noise in the reward: DAPO (arXiv 2503.14476)",
    ),
)
