"""What about a run's files limits its figures, explained. The rules are in `findings.py`."""

from arca_diag.explanations.entry import Explanation

_READERS = "what trainers write; the README lists what is read"

CHECKPOINTS = (
    Explanation(
        id="checkpoint-unreadable",
        levels=("error",),
        says="a checkpoint is damaged, half-written, of another base or of a kind that cannot be "
        "replayed; the others were measured",
        meaning="This checkpoint has no figures. The message says which file, what was found in it "
        "and what was expected; nothing about the other checkpoints is changed by it.",
        measured="Header, configuration and values of the adapter's files, and its shapes against "
        "the base's. Exact.",
        confounds="A checkpoint that training is still writing looks damaged: scan again later. "
        "Pickles (adapter_model.bin) are refused, not damaged.",
        actions=(
            "Copy the checkpoint again, or save it with "
            "model.save_pretrained(path, safe_serialization=True).",
            "If it names another base, give that with --base and scan it with --checkpoints.",
            "CorDA, LoRA-GA, LoftQ and fast PiSSA rewrite the base in ways that loading cannot "
            "repeat: train with plain LoRA, rsLoRA, DoRA, PiSSA or OLoRA to measure a run.",
        ),
        source=_READERS,
    ),
    Explanation(
        id="checkpoint-sharded",
        levels=("warn",),
        says="a saved state holds no adapter; the command that makes one",
        meaning="The trainer saved optimizer shards or a distributed state there, from which an "
        "adapter must be gathered first. Steps without an adapter have no figures.",
        measured="Names of files and folders, by the layout of each trainer. Exact.",
        confounds="Only states without an adapter beside them are named: a step that has one is "
        "measured.",
        actions=(
            "Run the command that the finding gives, in the run's folder.",
            "For the next run: FULL_STATE_DICT (FSDP); "
            "stage3_gather_16bit_weights_on_model_save (ZeRO-3); "
            "checkpointing.model_save_format=safetensors (NeMo-RL); verl: python -m "
            "verl.model_merger merge; prime-rl: broadcasts/ holds adapters, checkpoints/ does not.",
        ),
        source=_READERS,
    ),
    Explanation(
        id="file-unreadable",
        levels=("warn",),
        says="a file of the run was left out: it leads out of the run, is too large or damaged",
        meaning="What the file would have said (the trainer's log, its arguments) is unknown. "
        "Temperature, steps or logged means may be missing from the result, and with them the "
        "replay check.",
        measured="training_args.bin, args.json and trainer_state.json are read within limits of "
        "size and depth, without running anything. Exact.",
        confounds="Arguments that can be read in another folder of the run are used instead, and "
        "then nothing is said of them.",
        actions=(
            "Copy it again, or replace a link by the file it leads to.",
            "Remove it if no trainer of yours wrote it.",
            "Give what it would have said: --temperature, --reference.",
        ),
        source=_READERS,
    ),
)

MODELS = (
    Explanation(
        id="base-missing",
        levels=("note",),
        says="the base model is not on this machine, or cannot be used",
        meaning="`inspect` needs no base. `scan` does: without it no completion can be replayed.",
        measured="The name in adapter_config.json or --base, looked for as a folder, then in the "
        "local Hugging Face cache; its files are checked. Exact; nothing is fetched.",
        confounds="A path of the training machine is often dead elsewhere while the same model is "
        "at hand under its hub name.",
        actions=(
            "Give it: --base FOLDER, --base HUB_ID or --base FILE.gguf.",
            "Or let `scan` fetch it: --allow-download.",
        ),
        source=_READERS,
    ),
    Explanation(
        id="base-precision-mismatch",
        levels=("warn", "note"),
        says="the 16-bit original stands in for a base that was quantised to 4 bits",
        meaning="The adapter learnt to work on top of the quantised weights, which are another "
        "model, if a near one. Surprisal, entropy and the residual are off by what quantisation "
        "changes.",
        measured="The base's name ends as 4-bit models of Unsloth do, it is not at hand, and the "
        "16-bit model of the same name is. Exact; how far off is not measured here. A note where "
        "the original was quantised on loading (--quantize 4bit): Unsloth quantises scales too, "
        "and leaves some layers of its dynamic models in 16 bits.",
        confounds="A name that only looks quantised. The replay check tells how far off it is, "
        "where the run logged enough.",
        actions=(
            "Give the quantised base with --base, where this machine can load it.",
            "Or quantise the original when it is loaded: --quantize 4bit.",
            "Or read replay-mismatch, and take small differences between checkpoints with care.",
        ),
        source="Unsloth maps names of 4-bit and 16-bit models on each other",
    ),
    Explanation(
        id="reference-uncertain",
        levels=("warn",),
        says="the reference that training had cannot be known or had",
        meaning="Divergence, KL and residual are distances from a reference. Here they are from "
        "another one than the run's, or may be, so they are not the run's own KL.",
        measured="Which trainer and version left the run, its recorded arguments, ref/ and "
        "pissa_init/ folders, and init_lora_weights and bias of the adapters. Exact, but what no "
        "file records cannot be known.",
        confounds="With beta = 0 training had no reference, and the base is what the policy is "
        "measured from: nothing is said then, but for random starts and for earlier adapters that "
        "were merged into the base.",
        actions=(
            "Name it: --reference base, adapter-off, ref-adapter, init-adapter or FOLDER.",
            "Earlier adapters (LLaMA-Factory adapter_name_or_path): merge them into the base "
            "yourself and give that with --base.",
            "A reference of its own (ms-swift ref_adapters, OpenRLHF's reference model): give its "
            "folder with --reference.",
        ),
        source="TRL keeps ref/ from 0.27.0 on; verl takes adapter-off; ms-swift 4.6.0 and OpenRLHF "
        "0.11.2 do not save theirs",
    ),
    Explanation(
        id="temperature-assumed",
        levels=("warn",),
        says="nothing recorded the sampling temperature; 1 was assumed",
        meaning="Trainers divide logits by the temperature, so every log-probability depends on "
        "it. If the run sampled at another one, surprisal, entropy and KL are those of another "
        "distribution.",
        measured="training_args.bin, args.json, config.yaml or orchestrator.toml of the run. "
        "Exact: it is there or not.",
        confounds="1 is the default of TRL, verl and prime-rl, so the assumption is often right; "
        "the replay check tells where the run logged enough. TRL before 0.16 logged at 1 whatever "
        "it sampled at.",
        actions=(
            "Give it with --temperature (TRL temperature; verl "
            "actor_rollout_ref.rollout.temperature; prime-rl sampling.temperature of the "
            "orchestrator).",
        ),
        source="TRL from 0.16.0, verl and prime-rl divide logits by the temperature. From 1 to .7, "
        "the mean entropy of one model fell from 3.50 to 2.77 nats",
    ),
)
