"""Teacher-forced passes: the reference once, each adapter once, over the same batches."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from arca_diag.errors import ArcaError, CheckpointError
from arca_diag.inputs.adapters import Adapter
from arca_diag.inputs.gathered import Inputs
from arca_diag.inputs.models import load_model
from arca_diag.progress import Progress
from arca_diag.replay.batches import Batch, Work, plan
from arca_diag.replay.head import Head, score_tokens
from arca_diag.replay.scores import Replayed


class AdaptedModel:
    """A base model with several LoRA adapters resident, one of them active, or none."""

    def __init__(self, base: Any) -> None:
        """Take the base over: layers are replaced in place when the first adapter is added."""
        self.base = base
        self.peft: PeftModel | None = None
        self.kinds = _layer_shapes(base)
        self.plain_head = base.get_output_embeddings()

    def add(self, adapter: Adapter) -> None:
        """Make one adapter resident under its checkpoint's name.

        Raises:
            CheckpointError: A tensor that fits no layer of this base, or the reverse; the first
                one is named with both shapes.
        """
        name = adapter.checkpoint.name
        _check_fits(adapter, self.kinds)
        try:
            config = LoraConfig.from_peft_type(**_known_fields(adapter.config))
            config.inference_mode = True
            if self.peft is None:
                self.peft = PeftModel(self.base, config, adapter_name=name)
            else:
                self.peft.add_adapter(name, config)
            expected = get_peft_model_state_dict(
                self.peft, adapter_name=name, save_embedding_layers=False
            )
            _check_complete(name, adapter.tensors, expected)
            set_peft_model_state_dict(self.peft, dict(adapter.tensors), adapter_name=name)
        except CheckpointError:
            raise
        except Exception as error:  # an odd configuration makes PEFT raise anything at all
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{name}: PEFT cannot load the adapter: {first}") from error
        self.peft.eval()
        for key, parameter in self.peft.named_parameters():
            if "lora_" in key:
                # Trainers keep LoRA in float32; float64 is for a float64 replay.
                wide = torch.promote_types(self.base.dtype, torch.float32)
                parameter.data = parameter.data.to(wide)
            parameter.requires_grad_(False)

    @property
    def head_is_adapted(self) -> bool:
        """Whether an adapter sits in the head itself: PEFT has put another module there."""
        return self.base.get_output_embeddings() is not self.plain_head

    @contextmanager
    def using(self, checkpoint: str | None) -> Iterator[None]:
        """Run with one adapter active, or with none: the reference."""
        if self.peft is None:
            raise ValueError("no adapter is resident")
        if checkpoint is None:
            with self.peft.disable_adapter():
                yield
        else:
            self.peft.set_adapter(checkpoint)
            yield

    def hidden(
        self,
        ids: Int[Tensor, "sequence position"],
        attend: Bool[Tensor, "sequence position"],
    ) -> Float[Tensor, "sequence position hidden"]:
        """Last hidden states after the final norm: what the head reads."""
        # No padding, no mask: the attention is then the plain causal one.
        mask = None if attend.all() else attend.long()
        return self.base.base_model(
            input_ids=ids, attention_mask=mask, use_cache=False
        ).last_hidden_state

    def head(self, hidden: Float[Tensor, "token hidden"]) -> Float[Tensor, "token vocabulary"]:
        """Logits as the model computes them: the head's module, then scaling and soft-capping."""
        config = self.base.config
        if scale := getattr(config, "lm_head_multiplier", None):
            hidden = hidden * scale
        logits = self.base.get_output_embeddings()(hidden)
        if scale := getattr(config, "logit_scale", None):
            logits = logits * scale
        if scale := getattr(config, "logits_scaling", None):
            logits = logits / scale
        if cap := getattr(config, "final_logit_softcapping", None):
            logits = torch.tanh(logits / cap) * cap
        return logits

    def check_head(self) -> None:
        """Check on a few tokens that `hidden` and `head` give the model's own logits.

        Raises:
            ArcaError: They do not: this architecture's head does something unknown here.
        """
        device = self.base.get_input_embeddings().weight.device
        ids = torch.arange(1, 9, device=device)[None] % self.base.config.vocab_size
        attend = torch.ones_like(ids, dtype=torch.bool)
        own = self.base(input_ids=ids, use_cache=False).logits[0].double().cpu()
        ours = self.head(self.hidden(ids, attend)[0]).double().cpu()
        tolerance = 1e-3 if self.base.dtype in (torch.float32, torch.float64) else 5e-2
        if own.shape != ours.shape or (own - ours).abs().max() > tolerance * own.abs().max():
            raise ArcaError(
                f"{type(self.base).__name__} computes its logits in a way that is not known here",
                hint="report the architecture: its scores would be wrong, so nothing was measured",
            )


def load_adapted(inputs: Inputs, dtype: str, device: str) -> tuple[AdaptedModel, Inputs]:
    """The base with every adapter that fits it resident, and the inputs that are left.

    Raises:
        ArcaError: The base cannot be loaded, or an adapter does not fit that was named, or none
            fits.
    """
    model = AdaptedModel(load_model(inputs.base, getattr(torch, dtype), device))
    fitting, unreadable = [], dict(inputs.unreadable)
    for adapter in inputs.adapters:
        try:
            model.add(adapter)
        except CheckpointError as error:
            if adapter.checkpoint in inputs.insist:
                raise
            unreadable[adapter.checkpoint] = error
        else:
            fitting.append(adapter)
    if not fitting:
        raise next(iter(unreadable.values()))
    return model, dataclasses.replace(inputs, adapters=tuple(fitting), unreadable=unreadable)


def replay(
    model: AdaptedModel,
    work: list[Work],
    *,
    temperature: float,
    batch_tokens: int,
    progress: Progress,
) -> Iterator[Replayed]:
    """Run every rollout under the reference and under its checkpoints; yield token scores.

    A batch runs once under the reference and once under each of its checkpoints, so that N
    checkpoints cost N + 1 passes.

    Args:
        model: The base with every needed adapter resident.
        work: What to replay under what.
        temperature: Logits are divided by it.
        batch_tokens: Padded tokens a batch.
        progress: Hears of every pass.
    """
    batches = plan(work, batch_tokens)
    progress.start(sum(int(b.attend.sum()) * (1 + len(b.work[0].checkpoints)) for b in batches))
    with torch.inference_mode():
        model.check_head()
        for batch in batches:
            yield from _replay_batch(model, batch, temperature, progress)


def _replay_batch(
    model: AdaptedModel, batch: Batch, temperature: float, progress: Progress
) -> Iterator[Replayed]:
    device = model.base.get_input_embeddings().weight.device
    ids, attend = batch.ids.to(device), batch.attend.to(device)
    predicts, targets = batch.predicts.to(device), batch.targets.to(device)
    tokens = int(batch.attend.sum())

    def one_pass(checkpoint: str | None) -> tuple[Tensor, Head]:
        with model.using(checkpoint):
            hidden = model.hidden(ids, attend)[predicts]
        progress.advance(tokens)

        def head(states: Tensor) -> Tensor:
            if not model.head_is_adapted:
                return model.head(states)
            with model.using(checkpoint):
                return model.head(states)

        return hidden, head

    names = batch.work[0].checkpoints
    reference = one_pass(None)
    adapted = [one_pass(name) for name in names]
    ref_scores, all_scores = score_tokens(
        reference,
        adapted,
        targets,
        vocabulary=model.base.config.vocab_size,
        temperature=temperature,
    )
    lengths = [len(w.rollout.completion_ids) for w in batch.work]
    ref_norm = _norm(reference[0])
    for name, (hidden, _), scores in zip(names, adapted, all_scores, strict=True):
        columns = (
            scores.logprob,
            scores.entropy,
            ref_scores.logprob,
            ref_scores.entropy,
            scores.kl_exact,
            _norm(_wide(hidden) - _wide(reference[0])),
            ref_norm,
        )
        pieces = [column.numpy() for column in columns]
        start = 0
        for item, length in zip(batch.work, lengths, strict=True):
            part = [piece[start : start + length] for piece in pieces]
            start += length
            yield Replayed(
                rollout=item.rollout,
                checkpoint=name,
                logprob=part[0],
                entropy=part[1],
                ref_logprob=part[2],
                ref_entropy=part[3],
                kl_exact=part[4],
                residual=part[5],
                ref_norm=part[6],
            )


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _norm(tensor: Float[Tensor, "token hidden"]) -> Float[Tensor, " token"]:
    return torch.linalg.vector_norm(_wide(tensor), dim=-1).cpu().double()


def _known_fields(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without fields that the installed PEFT does not have."""
    known = {f for cls in LoraConfig.__mro__ for f in getattr(cls, "__dataclass_fields__", {})}
    return {key: value for key, value in config.items() if key in known}


def _layer_shapes(base: Any) -> dict[str, tuple[int, ...]]:
    """Weight shape (out, in) of every layer that has one, by its name in the base."""
    shapes = {}
    for name, module in base.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor):
            # GPT-2's layers keep their weight the other way round.
            transposed = isinstance(module, Conv1D)
            shapes[name] = tuple(weight.shape[::-1] if transposed else weight.shape)
    return shapes


def _check_fits(adapter: Adapter, layers: dict[str, tuple[int, ...]]) -> None:
    """Every A and B matrix must belong to a layer of the base and have its width."""
    for key in sorted(adapter.tensors):
        side = next((s for s in (".lora_A.", ".lora_B.") if s in key), None)
        if side is None:
            continue
        layer = key.split(side)[0].removeprefix("base_model.model.")
        shape = tuple(adapter.tensors[key].shape)
        if layer not in layers:
            raise CheckpointError(
                f"{adapter.checkpoint.name} was made for another base: tensor {key} of shape "
                f"{list(shape)} belongs to a layer that this base does not have",
                hint="give the base it was trained on with --base",
            )
        out_width, in_width = layers[layer][0], layers[layer][-1]
        width, found = (in_width, shape[-1]) if side == ".lora_A." else (out_width, shape[0])
        if width != found and len(layers[layer]) == 2:
            raise CheckpointError(
                f"{adapter.checkpoint.name} was made for another base: tensor {key} has shape "
                f"{list(shape)}, and the base's layer {layer} has shape {list(layers[layer])}",
                hint="give the base it was trained on with --base",
            )


def _check_complete(name: str, given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """PEFT only warns of tensors that it cannot place; here both directions must match."""
    absent, unplaced = (
        sorted(expected.keys() - given.keys()),
        sorted(given.keys() - expected.keys()),
    )
    if unplaced:
        raise CheckpointError(
            f"{name}: tensor {unplaced[0]} finds no place in the base with this configuration "
            f"({len(unplaced)} of {len(given)} tensors)",
            hint="does adapter_config.json belong to this adapter and base?",
        )
    if absent:
        raise CheckpointError(
            f"{name} was made for another base: its layer wants tensor {absent[0]} of shape "
            f"{list(expected[absent[0]].shape)}, and the adapter has none "
            f"({len(absent)} tensors missing)",
            hint="give the base it was trained on with --base",
        )
