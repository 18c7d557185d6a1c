"""A base model with the adapters of a run resident: one active, or none, or another reference."""

import hashlib
import itertools
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.adapters import PREFIX, Adapter
from arca_diag.inputs.reference import Reference, rewrites_base, trains_biases
from arca_diag.inputs.rehearsal import check_patterns
from arca_diag.replay import spread
from arca_diag.replay.convert import (
    Starts,
    adapted_layers,
    as_torch,
    keep_base,
    plain_config,
    split_biases,
    without_base,
)
from arca_diag.replay.fitting import check_complete, check_fits, layer_shapes


class AdaptedModel:
    """A base model with several LoRA adapters resident, one of them active, or none.

    The base's weights are never changed: what an adapter does to them in training is either part
    of what is made resident (PiSSA, OLoRA), or put in place while it is active (biases).
    """

    #: What `using` runs as the reference where it is another model altogether.
    OTHER_BASE = "another base model"

    def __init__(self, base: Any) -> None:
        """Take the base over: layers are replaced in place when the first adapter is added."""
        self.base = base
        self.other: Any | None = None
        self.peft: PeftModel | None = None
        self.kinds = layer_shapes(base)
        self.modules = [name for name, _ in base.named_modules()]
        self.plain_head = base.get_output_embeddings()
        self._running = base
        self._active: str | None = None  # resident adapter that PEFT has active
        self._labels: dict[str, str] = {}  # resident adapter -> its name in PEFT
        self._contents: dict[str | None, str] = {None: "base"}  # what `using` takes -> its hash
        self._references: dict[str, str] = {}  # checkpoint -> resident adapter
        self._known_biases = {n: p for n, p in base.named_parameters() if n.endswith(".bias")}
        self._biases: dict[str, dict[str, Tensor]] = {}  # resident adapter -> trained biases
        self._starts: Starts = {}
        self._with_start: set[str] = set()  # resident adapters that hold their start behind them
        self._tried = 0
        self._head_is_known = False

    def add(
        self, adapter: Adapter, *, initial: Adapter | None = None, name: str | None = None
    ) -> None:
        """Make one adapter resident.

        Args:
            adapter: The adapter.
            initial: What it started from, if it rewrites the base and that was saved.
            name: What `using` knows it by; its checkpoint's name if not given.

        Raises:
            CheckpointError: A tensor that fits no layer of this base, or the reverse; the first
                one is named with both shapes. Or a kind that cannot be replayed rightly.
        """
        said = adapter.checkpoint.name
        self._active = None  # whatever PEFT makes active now, it is told again
        check_fits(adapter, self.kinds)
        check_patterns(adapter.config, self.modules, f"{said}/adapter_config.json")
        waiting = spread.waits(self.base)
        if waiting and (why := _looks_at_weights(adapter)):
            raise _waits(said, why)
        # A folder's name is not for PEFT: a dot in it breaks torch, a part of "lora_" PEFT itself.
        label = f"adapter{self._tried}"
        self._tried += 1
        try:
            config = plain_config(adapter)
            if self.peft is None:
                self.peft = PeftModel(self.base, config, adapter_name=label)
            else:
                self.peft.add_adapter(label, config)
            with warnings.catch_warnings(action="ignore"):  # takes a bias in B for a shard
                expected = get_peft_model_state_dict(
                    self.peft, adapter_name=label, save_embedding_layers=False
                )
            trained = self._trained_biases(adapter, label, expected)
            tensors, biases = split_biases(as_torch(adapter), trained)
            tensors = without_base(adapter, tensors, expected, self.base)
            check_complete(said, tensors, expected)
            self._check_biases(said, biases, trained)
            if waiting:
                self._place(said, label, tensors)
            set_peft_model_state_dict(self.peft, tensors, adapter_name=label)
            self.peft.eval()
            self._freeze()
            keep_base(self.base, label, adapter, initial, self._starts)
        except CheckpointError:
            raise
        except Exception as error:  # an odd configuration makes PEFT raise anything at all
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CheckpointError(
                f"{said}: PEFT cannot load the adapter: {first}",
                hint="is its adapter_config.json as training left it?",
            ) from error
        name = name or said
        self._labels[name] = label
        self._contents[name] = _hash_of(adapter, initial)
        if rewrites_base(adapter):
            self._with_start.add(name)
        self._biases[name] = {k: v.to(self._known_biases[k]) for k, v in biases.items()}

    def _place(self, said: str, label: str, tensors: dict[str, Tensor]) -> None:
        """Put an adapter where its layers compute, though their weights wait elsewhere.

        PEFT puts it where the weights are, which is nowhere while they wait.

        Raises:
            CheckpointError: A part of it is a copy of such weights.
        """
        for name, layer in adapted_layers(self.base, label):
            device = spread.computes_on(layer.get_base_layer())
            for key in [k for k, _ in layer.named_parameters() if label in k.split(".")]:
                given = tensors[f"{PREFIX}{name}.{key.replace(f'.{label}', '')}"]
                owner, _, last = key.rpartition(".")
                parameter = torch.nn.Parameter(given.to(device))
                layer.get_submodule(owner).register_parameter(last, parameter)
        for key, parameter in self.base.named_parameters():
            if label in key.split(".") and parameter.is_meta:
                raise _waits(said, f"trains {key} whole")

    def refer(self, reference: Reference, checkpoints: list[str]) -> None:
        """Make the reference of these checkpoints resident: equal adapters are held once.

        Raises:
            CheckpointError: A reference adapter does not fit the base.
        """
        held: dict[tuple[str, str], str] = {}
        for checkpoint in checkpoints:
            adapter = reference.adapters.get(checkpoint)
            if adapter is None:
                continue
            content = adapter.sha256, repr(sorted(adapter.config.items()))
            if content not in held:
                name = f"reference of {checkpoint}"
                own = reference.kind != "path"  # a folder from elsewhere started from elsewhere
                initial = reference.initial.get(checkpoint) if own else None
                self.add(adapter, initial=initial, name=name)
                held[content] = name
            self._references[checkpoint] = held[content]

    def refer_to_model(self, other: Any, sha256: str = "") -> None:
        """Take another base model as the reference of every checkpoint.

        Args:
            other: The model.
            sha256: Of its files.

        Raises:
            ArcaError: Its vocabulary or its width is another, so that nothing can be compared.
        """
        for what in ("vocab_size", "hidden_size"):
            ours, theirs = (getattr(m.config, what, None) for m in (self.base, other))
            if ours != theirs:
                raise ArcaError(
                    f"the reference model has {what} {theirs}, and the base {ours}",
                    hint="a reference must have the base's vocabulary and width; choose another "
                    "with --reference",
                )
        self.other = other
        self._head_is_known = False
        self._contents[self.OTHER_BASE] = sha256

    def reference_of(self, checkpoint: str) -> str | None:
        """What `using` is to run as the reference of a checkpoint; None is the bare base."""
        return self.OTHER_BASE if self.other is not None else self._references.get(checkpoint)

    @property
    def entry(self) -> torch.device:
        """Where token ids go."""
        return spread.entry(self._running)

    @property
    def end(self) -> torch.device:
        """Where scores are made: at the head of the base, whichever model runs."""
        return spread.end(self.base)

    @property
    def devices(self) -> str:
        """The kinds of device that it computes on, such as `cuda` or `cpu+cuda`."""
        models = [self.base] if self.other is None else [self.base, self.other]
        return "+".join(sorted({k for m in models for k in spread.kinds(m).split("+")}))

    @property
    def attention(self) -> str:
        """Which implementation of attention runs."""
        return str(getattr(self.base.config, "_attn_implementation", None))

    def content_of(self, name: str | None) -> str:
        """A hash of what `using` runs by this name, beside the base."""
        if name not in self._contents:
            raise ValueError(f"no adapter {name!r} is resident")
        return self._contents[name]

    def _trained_biases(self, adapter: Adapter, label: str, expected: dict[str, Any]) -> set[str]:
        """The base's own biases that the adapter's file must hold, by their names in the base."""
        kept_apart = {key.removeprefix(PREFIX) for key in expected}
        match adapter.config.get("bias", "none"):
            case "none" | None:
                return set()
            case "all":
                return self._known_biases.keys() - kept_apart
            case "lora_only":
                layers = {f"{name}.bias" for name, _ in adapted_layers(self.base, label)}
                return (layers & self._known_biases.keys()) - kept_apart
            case odd:
                raise CheckpointError(f"{adapter.checkpoint.name}: bias={odd!r} is not known")

    def _check_biases(self, said: str, found: dict[str, Tensor], wanted: set[str]) -> None:
        for name in sorted(wanted):
            shape = list(self._known_biases[name].shape)
            if name not in found:
                raise CheckpointError(
                    f"{said}: its trained bias {name} was not saved",
                    hint="older versions of PEFT leave trained biases out of the file: save the "
                    "adapter again with a newer one",
                )
            if list(found[name].shape) != shape:
                raise CheckpointError(
                    f"{said} was made for another base: bias {name} has shape "
                    f"{list(found[name].shape)}, and the base's has {shape}",
                    hint="give the base it was trained on with --base",
                )

    def _freeze(self) -> None:
        assert self.peft is not None
        # Trainers keep LoRA in float32; float64 is for a float64 replay.
        wide = torch.promote_types(self.base.dtype, torch.float32)
        for key, parameter in self.peft.named_parameters():
            if "lora_" in key:
                parameter.data = parameter.data.to(wide)
            parameter.requires_grad_(False)

    def lora_parameters(self, name: str) -> list[tuple[torch.nn.Parameter, tuple[slice, ...]]]:
        """The LoRA parameters of a resident adapter, each with the part that training moved.

        A and B, those of an embedding, DoRA's magnitude, B's bias; no modules, tokens or biases
        that are trained whole. Of PiSSA and OLoRA the start stands behind the trained part.
        """
        assert self.peft is not None
        label, halved = self._labels[name], name in self._with_start
        found = []
        for key, parameter in self.peft.named_parameters():
            matrix = next((a for a, b in itertools.pairwise(key.split(".")) if b == label), "")
            if not matrix.startswith("lora_"):
                continue
            along_rank = {"lora_A": 0, "lora_B": 1}.get(matrix) if halved else None
            moved = tuple(
                slice(size // 2 if place == along_rank else size)
                for place, size in enumerate(parameter.shape)
            )
            found.append((parameter, moved))
        return found

    @property
    def head_is_adapted(self) -> bool:
        """Whether the head is not the base's own in every pass.

        An adapter in it makes PEFT put another module there; a trained bias of it is swapped in;
        and another base model has another head.
        """
        own = {id(p) for p in self.plain_head.parameters()}
        return (
            self.other is not None
            or self.base.get_output_embeddings() is not self.plain_head
            or any(id(self._known_biases[n]) in own for b in self._biases.values() for n in b)
        )

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Run with one resident adapter active, with none (the bare base), or the other base."""
        if name == self.OTHER_BASE:
            self._running = self.other
            try:
                yield
            finally:
                self._running = self.base
            return
        if self.peft is None:
            raise ValueError("no adapter is resident")
        if name is None:
            # What PEFT's disable_adapter() does, without its status of every module each time.
            self.peft.base_model.disable_adapter_layers()
            try:
                yield
            finally:
                self.peft.base_model.enable_adapter_layers()
            return
        if self._active != name:  # PEFT walks all modules for it
            self.peft.set_adapter(self._labels[name])
            self._active = name
        trained = self._biases[name]
        own = {key: self._known_biases[key].data for key in trained}
        try:
            for key, values in trained.items():
                self._known_biases[key].data = values
            yield
        finally:
            for key, values in own.items():
                self._known_biases[key].data = values

    def hidden(
        self,
        ids: Int[Tensor, "sequence position"],
        attend: Bool[Tensor, "sequence position"],
    ) -> Float[Tensor, "sequence position hidden"]:
        """Last hidden states after the final norm: what the head reads."""
        # No padding, no mask: the attention is then the plain causal one.
        mask = None if attend.all() else attend.long()
        return self._running.base_model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state

    def hidden_of_trees(
        self,
        ids: Int[Tensor, "row node"],
        depth: Int[Tensor, "row node"],
        end: Int[Tensor, "row node"],
    ) -> Float[Tensor, "row node hidden"]:
        """The same for rows that are trees: a node sees itself and its ancestors (see `trees`)."""
        node = torch.arange(ids.shape[1], device=ids.device)
        sees = (node <= node[:, None]) & (node[:, None] < end[:, None, :])
        dtype = self._running.dtype
        mask = torch.zeros(sees.shape, dtype=dtype, device=ids.device)
        mask = mask.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]
        return self._running.base_model(
            input_ids=ids, attention_mask=mask, position_ids=depth, use_cache=False
        ).last_hidden_state

    def head(self, hidden: Float[Tensor, "token hidden"]) -> Float[Tensor, "token vocabulary"]:
        """Logits as the model computes them: the head's module, then scaling and soft-capping."""
        config = self._running.config
        place, hidden = hidden.device, hidden.to(spread.end(self._running))
        if scale := getattr(config, "lm_head_multiplier", None):
            hidden = hidden * scale
        logits = self._running.get_output_embeddings()(hidden)
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):
            logits = logits / scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits.to(place)

    def check_head(self) -> None:
        """Check on a few tokens, once, that `hidden` and `head` give the model's own logits.

        Raises:
            ArcaError: They do not: this architecture's head does something unknown here.
        """
        if self._head_is_known:
            return
        self._check_head(self.base)
        if self.other is not None:
            with self.using(self.OTHER_BASE):
                self._check_head(self.other)
        self._head_is_known = True

    def _check_head(self, model: Any) -> None:
        ids = torch.arange(1, 9, device=spread.entry(model))[None] % model.config.vocab_size
        attend = torch.ones_like(ids, dtype=torch.bool)
        own = model(input_ids=ids, use_cache=False).logits[0].double().cpu()
        ours = self.head(self.hidden(ids, attend)[0]).double().cpu()
        tolerance = 1e-3 if model.dtype in (torch.float32, torch.float64) else 5e-2
        if own.shape != ours.shape or (own - ours).abs().max() > tolerance * own.abs().max():
            raise ArcaError(
                f"{type(model).__name__} computes its logits in a way that is not known here",
                hint="report the architecture: its scores would be wrong, so nothing was measured",
            )


def _looks_at_weights(adapter: Adapter) -> str:
    """Why an adapter needs to look at the base's weights; empty if it does not."""
    config = adapter.config
    if rewrites_base(adapter):
        return f"is {config.get('init_lora_weights')}"
    if config.get("use_dora"):
        return "is DoRA"
    if config.get("target_parameters"):
        return "adapts parameters that are no layer"
    return "trains biases" if trains_biases(adapter) else ""


def _waits(said: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{said} {why}, and with --device-map auto some of the base's weights wait in another "
        "memory or on disk, where they cannot be looked at",
        hint="use more or larger devices, or --quantize, so that all of the base fits",
    )


def _hash_of(adapter: Adapter, initial: Adapter | None) -> str:
    """Of all that `add` makes something of."""
    parts = [(a.sha256, a.config) for a in (adapter, initial) if a is not None]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()
