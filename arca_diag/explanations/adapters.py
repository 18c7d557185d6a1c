"""What is wrong with adapters, explained. The rules are in `lint.py`."""

from arca_diag.explanations.entry import Explanation

ADAPTERS = (
    Explanation(
        id="adapter-inert",
        levels=("error", "note"),
        says="the adapter does nothing: B A is exactly 0, `lora_alpha` is 0, PEFT would place none "
        "of its tensors, or its residual is exactly 0, or nothing but rounding, on every token",
        meaning="Whoever loads this checkpoint gets its base, and most other findings about it are "
        "noise. Divergence, KL and residual are then 0, or what the reference does alone (a scan "
        "reads badly named tensors by their right names, and measures them). At step 0 it is how "
        "plain LoRA begins, and a note.",
        measured="Without a model: names of the LoRA tensors against those that PEFT would place, "
        "alpha in every layer, and B A from the file's values. With one: the residual of every "
        "counted token of every completion: exact comparison with 0, no interval; or, in float32 "
        "and above, the noise of the residual surely half of itself: the same tokens replayed in "
        "another batch composition, over prompts.",
        thresholds=("inert-noise",),
        confounds="A warm-up starts at a learning rate of 0 and a first batch may hold no "
        "advantage: the first checkpoints are a note where a later one moved. Trained modules, "
        "tokens, biases or DoRA magnitudes may act while B A is 0: then B A and alpha are not "
        "judged. prime-rl's own tensor names are read as they are. In bfloat16 a tiny update can "
        "round to exactly 0 in the replay: scan with --dtype float32.",
        actions=(
            "Make it trainable: PeftModel.from_pretrained(..., is_trainable=True); hand TRL a "
            "peft_config, or look at print_trainable_parameters() before training.",
            "Is lora_alpha of adapter_config.json that of training? verl's model_merger writes 0 "
            "where lora_train_meta.json is not beside the shards (verl: "
            "actor_rollout_ref.model.lora_alpha; prime-rl: trainer.model.lora.alpha).",
            "Was the learning rate above 0 (TRL learning_rate; verl "
            "actor_rollout_ref.actor.optim.lr; prime-rl trainer.optim.lr), and did any group "
            "have spread in reward?",
            "If names do not fit: save with model.save_pretrained(path), or rename the tensors to "
            "base_model.model.<module>.lora_A.weight.",
        ),
        source="a fact: an exact zero needs no threshold. LoRA starts at B = 0 (arXiv 2106.09685)",
    ),
    Explanation(
        id="adapter-unchanged",
        levels=("error", "note"),
        says="checkpoints are equal byte for byte, or equal their own `ref/`: training changed "
        "nothing",
        meaning="Between these checkpoints nothing was learnt, whatever the log says. Trainers log "
        "rewards and losses as usual while no parameter is trained.",
        measured="SHA-256 of each checkpoint's adapter_model.safetensors, and its values against "
        "those of the reference adapter that TRL keeps in ref/. Exact comparison; no interval.",
        confounds="Checkpoints at steps 0 and 1, or those that do nothing yet, may be equal "
        "because a warm-up starts at a learning rate of 0: a note where a later checkpoint moved. "
        "The same is a note for checkpoints that equal ref/ before training began. A copy under "
        "another step's name looks the same.",
        actions=(
            "Pass is_trainable=True to PeftModel.from_pretrained before the model goes to the "
            "trainer.",
            "Look at print_trainable_parameters() before training.",
            "Look at grad_norm and learning_rate in the log: see nothing-moves.",
        ),
        source="trl pull request 6701: a run that trains nothing and logs as usual",
    ),
    Explanation(
        id="adapter-broken",
        levels=("error",),
        says="tensors hold NaN or infinity",
        meaning="Training diverged before this checkpoint was saved. Every output of the policy is "
        "NaN, so `scan` leaves it out as checkpoint-unreadable.",
        measured="Every value of every tensor of the file; exact. Not looked at with --no-tensors.",
        confounds="A file damaged in copying can hold such values too: compare its hash with the "
        "original's.",
        actions=(
            "Go on from an earlier checkpoint.",
            "Lower the learning rate or clip harder: TRL learning_rate, max_grad_norm; verl "
            "actor_rollout_ref.actor.optim.lr, actor_rollout_ref.actor.grad_clip; prime-rl "
            "trainer.optim.lr, trainer.optim.max_norm.",
            "Find the first NaN in the log: see gradients-broken.",
        ),
        source="a fact",
    ),
    Explanation(
        id="adapter-sharded",
        levels=("error",),
        says="LoRA matrices are empty or flat: one process's part",
        meaning="DeepSpeed ZeRO-3 and FSDP spread a matrix over processes, and one of them saved "
        "its own part. The adapter cannot be loaded as it is, and `scan` leaves it out.",
        measured="Shapes in the header of adapter_model.safetensors: an A or B with fewer than two "
        "sides, or a side of 0. Exact.",
        confounds="Only A and B are looked at: vectors such as DoRA's magnitudes are flat by "
        "nature.",
        actions=(
            "DeepSpeed ZeRO-3: set stage3_gather_16bit_weights_on_model_save and save again.",
            "FSDP: save with FULL_STATE_DICT.",
        ),
        source="PEFT 0.21 warns of the same shapes when it saves",
    ),
    Explanation(
        id="keys-unmatched",
        levels=("error",),
        says="PEFT would leave some of the tensors out without an error",
        meaning="Whoever loads this adapter runs a part of it: PEFT warns at most. An evaluation "
        "or a server is then of another policy than the one that was trained.",
        measured="Names in the file against base_model.model.<module>.lora_*, and modules against "
        "target_modules where that is a list. Exact; the base is not loaded.",
        confounds="prime-rl names tensors for vLLM: read as they are, no fault. A pattern in "
        "target_modules is not tried, nor a list beside target_parameters: strays are then not "
        "seen. Where none would be placed the finding is adapter-inert.",
        actions=(
            "Save the adapter with model.save_pretrained(path).",
            "Or rename the tensors to base_model.model.<module>.lora_A.weight, of modules that "
            "LoraConfig target_modules names.",
        ),
        source="PEFT 0.21: from_pretrained warns of missing adapter keys and goes on",
    ),
    Explanation(
        id="nothing-trainable",
        levels=("error",),
        says="by its configuration the adapter trains nothing",
        meaning="No module is adapted: r is 0, no target is named, or layers_to_transform names "
        "layers that are not there. Training ran on nothing.",
        measured="adapter_config.json: r and rank_pattern, target_modules, modules_to_save, "
        "trainable_token_indices, target_parameters, layers_to_transform. Exact.",
        confounds="A null target_modules is no fault: PEFT knows those of the model's family. A "
        "configuration that was edited after training can say less than was trained.",
        actions=(
            "Set r, target_modules and layers_to_transform of LoraConfig (verl: "
            "actor_rollout_ref.model.lora_rank and target_modules; prime-rl: "
            "trainer.model.lora.rank and target_modules).",
            "Look at print_trainable_parameters() before training.",
        ),
        source="PEFT's own reading of LoraConfig",
    ),
    Explanation(
        id="layer-dominates",
        levels=("warn",),
        says="one layer carries more than half of the squared update",
        meaning="The run changed the model in one place. That is often one layer's gradient "
        "exploding, or an alpha_pattern that scales it up, rather than something learnt.",
        measured="Share of one layer in the sum over layers of the squared Frobenius norm of "
        "s B A, in float64 from the file. A point figure of the weights; no interval.",
        thresholds=("layer-dominates",),
        confounds="Embedding and head have a row a token and are left out. Fewer than four layers "
        "are not judged. Starts that take part of the base (PiSSA, OLoRA) or are random "
        "(init_lora_weights=False) are not judged: their update includes the start. A large update "
        "need not move the output much; the residual tells.",
        actions=(
            "Look at that layer's gradients, and at alpha_pattern and rank_pattern of LoraConfig.",
            "Lower learning_rate or lora_alpha, or add weight_decay (verl: "
            "actor_rollout_ref.actor.optim.lr and weight_decay; prime-rl: trainer.optim.lr and "
            "weight_decay).",
        ),
        source="healthy runs that were measured: a largest share of .21 of 21 layers, .014 of 210",
    ),
    Explanation(
        id="layers-dead",
        levels=("warn", "note"),
        says="the update of some layers is exactly zero",
        meaning="These layers are in target_modules and were not trained: frozen, never run, or "
        "without a gradient. The rest of the adapter works.",
        measured="Frobenius norm of s B A of each layer, in float64 from the file; exact zeros.",
        confounds="An expert that no token was routed to has no gradient: a note where all dead "
        "layers are experts. Where every layer is dead and something else was trained it is a "
        "note; where nothing was it is adapter-inert. Not judged at step 0.",
        actions=(
            "Leave modules that never run (such as a vision tower) out of target_modules, or name "
            "them in exclude_modules of LoraConfig (verl: "
            "actor_rollout_ref.model.exclude_modules).",
            "Do not freeze parameters after get_peft_model.",
        ),
        source="a fact: B starts at 0 and any gradient moves it",
    ),
    Explanation(
        id="rslora-lost",
        levels=("warn", "note"),
        says="the configuration does not say whether rsLoRA was used (suspected)",
        meaning="rsLoRA scales the update by alpha over the root of r, plain LoRA by alpha over r. "
        "If training used it and the file does not say so, every loader applies an update that is "
        "the root of r times too small, and so does a scan.",
        measured="adapter_config.json: use_rslora is missing, or verl's merger rebuilt the file "
        "from shapes. A suspicion, not a measurement; the finding gives both scales.",
        confounds="Files of older PEFT lack the key although rsLoRA was not used: a note, and a "
        "warning only where another checkpoint of the run set it. The replay check tells: a lost "
        "flag shows as replay-mismatch where the run logged enough.",
        actions=(
            'If training used rsLoRA, write "use_rslora": true into adapter_config.json.',
            "Else nothing: prime-rl never uses it, and verl only where "
            "actor_rollout_ref.model.lora_adapter_path had it.",
        ),
        source="rsLoRA (arXiv 2312.03732); verl 0.9.1 base_model_merger and prime-rl write the "
        "file by hand. A lost flag scaled residual norms to .455 of theirs",
    ),
    Explanation(
        id="peft-newer",
        levels=("note",),
        says="the adapter was saved by a newer PEFT than the installed",
        meaning="PEFT drops options it does not know when it loads a file. If one of them mattered "
        "in training, the replayed policy is another.",
        measured="peft_version of adapter_config.json against the installed version, number by "
        "number. Exact; said once a run.",
        confounds="Most newer files hold no option that matters: the replay check tells.",
        actions=("pip install --upgrade peft, if replayed figures do not fit the log.",),
        source="PEFT 0.21: unknown options are removed with a warning",
    ),
)
