import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model

from arca_diag.errors import CheckpointError
from arca_diag.inputs.adapters import Adapter, open_adapter
from arca_diag.inputs.checkpoints import Checkpoint
from arca_diag.inputs.updates import adapted_layers, layer_updates, summarise
from tests.inputs import SAMPLE, lora_tensors, write_adapter

NAN = float("nan")


def adapter_of(folder, tensors, **config) -> Adapter:
    return open_adapter(write_adapter(folder / "checkpoint-1", config, tensors))


def the_update(folder, tensors, **config):
    (found,) = layer_updates(adapter_of(folder, tensors, **config))
    return found


def pair(a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
    return lora_tensors(lora_A=a.contiguous(), lora_B=b.contiguous())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Dense:
    """The figures of a whole matrix, by its own singular values in float64."""

    def __init__(self, *matrices: np.ndarray) -> None:
        values = np.concatenate([np.linalg.svd(m, compute_uv=False) for m in matrices])
        self.values = np.sort(values)[::-1]
        self.norm = math.sqrt(sum(float((m**2).sum()) for m in matrices))
        self.stable_rank = self.norm**2 / self.values[0] ** 2
        shares = [v / self.values.sum() for v in self.values if v > 0]
        self.effective_rank = math.exp(-sum(p * math.log(p) for p in shares))
        cut = max(matrices[0].shape) * 2.0**-23
        self.rank = sum(v > cut * self.values[0] for v in self.values)

    def assert_equals(self, update) -> None:
        assert update.reason is None
        assert update.norm == pytest.approx(self.norm, rel=1e-6)
        assert update.stable_rank == pytest.approx(self.stable_rank, rel=1e-6)
        assert update.effective_rank == pytest.approx(self.effective_rank, rel=1e-6)
        assert update.rank_used == self.rank


def product(b: torch.Tensor, a: torch.Tensor, scale: float) -> np.ndarray:
    return scale * (b.double().numpy() @ a.double().numpy())


class TestAgainstADenseDecomposition:
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        shape=st.tuples(*[st.integers(1, 40)] * 3),
        dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
        alpha=st.floats(0.01, 100),
        rslora=st.booleans(),
        seed=st.integers(0, 2**30),
    )
    def test_random_matrices_of_any_shape(self, tmp_path, shape, dtype, alpha, rslora, seed):
        rank, inputs, outputs = shape  # a rank above both sides too
        a = normal(rank, inputs, seed=seed).to(dtype)
        b = normal(outputs, rank, seed=seed + 1).to(dtype)
        config = {"r": rank, "lora_alpha": alpha, "use_rslora": rslora}
        scale = alpha / (math.sqrt(rank) if rslora else rank)
        found = the_update(tmp_path, pair(a, b), **config)
        Dense(product(b, a, scale)).assert_equals(found)
        assert found.rank_given == rank

    @pytest.mark.parametrize("gap", [1e-2, 1e-5, 1e-9])
    def test_nearly_dependent_directions(self, tmp_path, gap):
        a, b = normal(4, 60), normal(50, 4, seed=1).double()
        b[:, 3] = b[:, 0] - b[:, 1] + gap * b[:, 3]
        found = the_update(tmp_path, pair(a, b), r=4, lora_alpha=8)
        Dense(product(b, a, 2.0)).assert_equals(found)

    @pytest.mark.parametrize("spread", [1e4, 1e8, 1e15])
    def test_directions_of_very_different_size_that_cancel_between_a_and_b(self, tmp_path, spread):
        sizes = torch.tensor([1.0, spread, 1 / spread, 1.0])
        a, b = normal(4, 60) * sizes[:, None], normal(50, 4, seed=1) / sizes
        found = the_update(tmp_path, pair(a, b), r=4, lora_alpha=4)
        Dense(product(b, a, 1.0)).assert_equals(found)

    @pytest.mark.parametrize("spread", [1e2, 1e5, 1e12])
    def test_directions_of_very_different_size_in_the_update(self, tmp_path, spread):
        sizes = torch.tensor([1.0, 1 / spread, 1.0, 1 / spread**2]).double()
        b = normal(50, 4, seed=1) * sizes
        found = the_update(tmp_path, pair(normal(4, 60), b), r=4, lora_alpha=4)
        Dense(product(b, normal(4, 60), 1.0)).assert_equals(found)

    @pytest.mark.parametrize("size", [1e-150, 1e-30, 1e30, 1e150])
    def test_sizes_whose_squares_leave_the_range_of_floats(self, tmp_path, size):
        a, b = normal(4, 60).double(), normal(50, 4, seed=1).double()
        found = the_update(tmp_path, pair(a * size, b * size), r=4, lora_alpha=4)
        assert found.norm == pytest.approx(size * size * Dense(product(b, a, 1.0)).norm, rel=1e-6)

    def test_every_layer_of_the_sample(self):
        folder = SAMPLE / "checkpoint-100"
        adapter = open_adapter(Checkpoint(name=folder.name, step=100, path=folder))
        updates = layer_updates(adapter)
        assert len(updates) == 21
        for update in updates:
            a, b = (adapter.tensors[key].astype(float) for key in update.layer.tensors)
            Dense(adapter.alpha / adapter.rank * (b @ a)).assert_equals(update)


class TestWhatTheFiguresMean:
    def test_equal_singular_values_use_the_whole_rank(self, tmp_path):
        found = the_update(tmp_path, pair(torch.eye(3, 5), torch.eye(4, 3)), r=3, lora_alpha=6)
        assert found.norm == pytest.approx(2 * math.sqrt(3))
        assert found.stable_rank == pytest.approx(3)
        assert found.effective_rank == pytest.approx(3)
        assert (found.rank_used, found.rank_given) == (3, 3)

    def test_one_direction_is_rank_one(self, tmp_path):
        a, b = torch.ones(4, 6), torch.ones(5, 4)
        found = the_update(tmp_path, pair(a, b), r=4)
        assert found.stable_rank == pytest.approx(1)
        assert found.effective_rank == pytest.approx(1)
        assert (found.rank_used, found.rank_given) == (1, 4)

    @pytest.mark.parametrize("side", ["lora_A", "lora_B"])
    def test_a_zero_side_is_no_update_and_has_no_direction(self, tmp_path, side):
        shape = (2, 3) if side == "lora_A" else (4, 2)
        found = the_update(tmp_path, lora_tensors(**{side: torch.zeros(shape)}))
        assert (found.norm, found.rank_used, found.reason) == (0.0, 0, None)
        assert math.isnan(found.stable_rank)
        assert math.isnan(found.effective_rank)

    def test_a_product_may_be_zero_where_no_side_is(self, tmp_path):
        a, b = torch.tensor([[1.0, 2], [0, 0]]), torch.tensor([[0.0, 1], [0, 3]])
        found = the_update(tmp_path, pair(a, b))
        assert (found.norm, found.rank_used) == (0.0, 0)

    def test_a_negative_scale_is_an_update_all_the_same(self, tmp_path):
        found = the_update(tmp_path, lora_tensors(), lora_alpha=-4)
        assert found.norm == pytest.approx(4 * math.sqrt(12))

    def test_the_dense_product_is_never_formed(self, tmp_path):
        a, b = torch.ones(2, 40_000), torch.ones(30_000, 2)  # the product: 9.6 GB
        adapter = adapter_of(tmp_path, pair(a, b))
        tracemalloc.start()
        (found,) = layer_updates(adapter)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.norm == pytest.approx(2 * 2 * math.sqrt(40_000 * 30_000))
        assert peak < 20e6

    def test_of_dora_it_is_the_low_rank_part(self, tmp_path):
        magnitude = {"base_model.model.layer.lora_magnitude_vector": torch.full((4,), 100.0)}
        plain = the_update(tmp_path / "plain", lora_tensors())
        dora = the_update(tmp_path / "dora", lora_tensors() | magnitude, use_dora=True)
        assert dora.norm == plain.norm > 0

    def test_whole_modules_base_weights_and_tokens_are_no_part_of_it(self, tmp_path):
        others = {
            "base_model.model.lm_head.weight": torch.ones(9, 3),
            "base_model.model.layer.base_layer.weight": torch.ones(9, 3),
            "base_model.model.embed.token_adapter.trainable_tokens_delta": torch.ones(2, 3),
            "base_model.model.layer.lora_B.bias": torch.ones(4),
        }
        adapter = adapter_of(tmp_path, lora_tensors() | others)
        assert [layer.name for layer in adapted_layers(adapter)] == ["layer"]


class Net(torch.nn.Module):
    """A layer of every sort that PEFT adapts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 6)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({"up": torch.nn.Linear(6, 8), "down": torch.nn.Linear(8, 6)})
            for _ in range(3)
        )
        self.conv = torch.nn.Conv2d(6, 8, (3, 2))

    def forward(self, x):
        return x


class Experts(torch.nn.Module):
    """Stacked weights, as mixtures of experts have them: (expert, in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = torch.nn.Module()
        self.mlp.weight = torch.nn.Parameter(torch.randn(5, 7, 4))

    def forward(self, x):
        return x


def saved_by_peft(net, folder, **config):
    """An adapter with random values that PEFT saved, and PEFT's own update of each layer."""
    torch.manual_seed(1)
    model = get_peft_model(net, LoraConfig(**config))
    for name, values in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(values)
    model.save_pretrained(folder / "checkpoint-1")
    prefix = "base_model.model."
    deltas = {
        name.removeprefix(prefix): module.get_delta_weight("default").detach().double().numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    path = folder / "checkpoint-1"
    return open_adapter(Checkpoint(name=path.name, step=1, path=path)), deltas


@pytest.mark.filterwarnings("ignore:.*keys did not match any targeted module:RuntimeWarning")
class TestAgainstPeft:
    @pytest.mark.parametrize("rslora", [False, True])
    @pytest.mark.parametrize(
        ("ranks", "alphas"),
        [
            ({}, {}),
            ({"up": 3}, {"layers.1.down": 40}),
            ({r"layers\.\d+\.up": 3, "up": 1}, {"down": 5, "layers.1.down": 40}),
            ({"^layers.2.down": 1, "ayers.0.up": 5}, {r"layers\.(0|2)\..*": 3, "p": 9}),
            ({"embed": 2, "conv": 4}, {"embed": 10, "conv": 1}),
        ],
        ids=["plain", "names", "patterns", "anchored", "embedding-and-convolution"],
    )
    def test_scale_and_update_of_every_layer(self, tmp_path, ranks, alphas, rslora):
        adapter, deltas = saved_by_peft(
            Net(),
            tmp_path,
            r=2,
            lora_alpha=7,
            target_modules=["embed", "up", "down", "conv"],
            rank_pattern=ranks,
            alpha_pattern=alphas,
            use_rslora=rslora,
        )
        updates = {u.layer.name: u for u in layer_updates(adapter)}
        assert set(updates) == set(deltas)
        for name, delta in deltas.items():
            assert updates[name].norm == pytest.approx(np.linalg.norm(delta), rel=1e-6), name
            values = np.linalg.svd(delta.reshape(len(delta), -1), compute_uv=False)
            stable = (values**2).sum() / values[0] ** 2
            assert updates[name].stable_rank == pytest.approx(stable, rel=1e-5), name

    def test_stacked_experts_are_one_block_diagonal_matrix(self, tmp_path):
        config = {"target_parameters": ["mlp.weight"], "target_modules": [], "lora_alpha": 6}
        adapter, deltas = saved_by_peft(Experts(), tmp_path, r=2, **config)
        (update,), (delta,) = layer_updates(adapter), deltas.values()
        assert delta.shape == (5, 7, 4)
        assert update.norm == pytest.approx(np.linalg.norm(delta), rel=1e-6)
        values = np.concatenate([np.linalg.svd(m, compute_uv=False)[:2] for m in delta])
        assert update.stable_rank == pytest.approx((values**2).sum() / values.max() ** 2, rel=1e-5)
        assert (update.rank_used, update.rank_given) == (10, 10)

    def test_experts_with_patterns_are_left_with_the_reason(self, tmp_path):
        config = {"target_parameters": ["mlp.weight"], "target_modules": [], "lora_alpha": 6}
        adapter, _ = saved_by_peft(Experts(), tmp_path, r=2, alpha_pattern={"x": 3}, **config)
        (update,) = layer_updates(adapter)
        assert "the configuration has patterns" in update.reason


class TestUndefined:
    def reason(self, folder, tensors, **config) -> str:
        found = the_update(folder, tensors, **config)
        assert math.isnan(found.norm)
        assert math.isnan(found.stable_rank)
        assert math.isnan(found.effective_rank)
        assert found.rank_used is None
        return found.reason

    @pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
    @pytest.mark.parametrize("side", ["lora_A", "lora_B"])
    def test_nan_and_infinity(self, tmp_path, side, bad):
        spoilt = torch.ones(2, 3) if side == "lora_A" else torch.ones(4, 2)
        spoilt[1, 1] = bad
        assert "NaN" in self.reason(tmp_path, lora_tensors(**{side: spoilt}))

    def test_an_update_that_no_float_holds(self, tmp_path):
        huge = (torch.full(shape, 1e300, dtype=torch.float64) for shape in ((2, 3), (4, 2)))
        assert "overflows" in self.reason(tmp_path, pair(*huge))

    @pytest.mark.parametrize("shape", [(6,), (0, 3), (), (2, 0)], ids=str)
    def test_a_shard(self, tmp_path, shape):
        reason = self.reason(tmp_path, lora_tensors(lora_A=torch.ones(shape)))
        assert "no matrices" in reason

    @pytest.mark.parametrize("side", ["A", "B"])
    def test_a_missing_side(self, tmp_path, side):
        tensors = lora_tensors()
        del tensors[f"base_model.model.layer.lora_{side}.weight"]
        assert self.reason(tmp_path, tensors) == f"its {side} is missing"

    def test_a_rank_that_is_not_the_configuration_s(self, tmp_path):
        reason = self.reason(tmp_path, lora_tensors(), r=3)
        assert (
            reason == "its A has 2 rows and its B 2 columns, and the configuration gives it rank 3"
        )

    def test_sides_that_do_not_fit_each_other(self, tmp_path):
        assert "3 columns" in self.reason(tmp_path, lora_tensors(lora_B=torch.ones(4, 3)))

    @pytest.mark.parametrize(("rows", "columns"), [(4, 6), (5, 5), (6, 4), (1, 1)])
    def test_experts_that_are_no_stack_of_pairs(self, tmp_path, rows, columns):
        tensors = pair(torch.ones(rows, 3), torch.ones(4, columns))
        reason = self.reason(tmp_path, tensors, target_parameters=["mlp.weight"])
        assert f"{rows} rows" in reason

    @pytest.mark.parametrize(
        "config",
        [
            {"r": 0},
            {"rank_pattern": {"layer": 0}},
            {"alpha_pattern": {"layer": None}},
            {"alpha_pattern": {"layer": [1]}},
            {"alpha_pattern": {"layer": 10**400}},
            {"rank_pattern": [1]},
            {"alpha_pattern": "layer"},
            {"alpha_pattern": {"(": 1}},
            {"alpha_pattern": {"x" * 300: 1}},
        ],
        ids=lambda c: repr(c)[:40],
    )
    def test_a_rank_or_alpha_that_cannot_be_told(self, tmp_path, config):
        assert self.reason(tmp_path, lora_tensors(), **config)

    @pytest.mark.parametrize("rank", ["2", 2.0, 10**400, None], ids=lambda r: repr(r)[:9])
    def test_a_rank_that_is_none_is_refused_before(self, tmp_path, rank):
        with pytest.raises(CheckpointError, match="a rank is"):
            adapter_of(tmp_path, lora_tensors(), rank_pattern={"layer": rank})

    @pytest.mark.timeout(20)
    @pytest.mark.parametrize(
        "pattern",
        [
            "(a+)+b",
            "(a|a)*b",
            "(a|aa)+b",
            "(.*a){30}b",
            "a?" * 40 + "a" * 40 + "b",
            "(a|a)" * 35 + "b",
            "(" * 20 + "a" + "|a)" * 20 + "b",
            ".*" * 30 + "b",
        ],
        ids=lambda p: p[:12],
    )
    def test_a_pattern_that_would_take_for_ever_is_not_tried(self, tmp_path, pattern):
        tensors = lora_tensors("base_model.model." + "a" * 100)
        assert "is not tried" in self.reason(tmp_path, tensors, alpha_pattern={pattern: 1})

    @pytest.mark.timeout(20)
    def test_a_long_name_is_not_tried_either(self, tmp_path):
        tensors = lora_tensors("base_model.model." + "a" * 100_000)
        assert self.reason(tmp_path, tensors, alpha_pattern={".*a.*a.*b": 1})
        assert the_update(tmp_path / "plain", tensors).norm > 0

    def test_one_layer_leaves_the_others_alone(self, tmp_path):
        tensors = lora_tensors("base_model.model.0", lora_A=torch.full((2, 3), NAN))
        first, second = layer_updates(
            adapter_of(tmp_path, tensors | lora_tensors("base_model.model.1"))
        )
        assert math.isnan(first.norm)
        assert second.norm == pytest.approx(4 * math.sqrt(12))


class TestTogether:
    def layers(self, folder, *sizes: float):
        tensors = {}
        for number, size in enumerate(sizes):
            layer = f"base_model.model.layers.{number}"
            tensors |= lora_tensors(layer, lora_B=torch.full((4, 2), size))
        return layer_updates(adapter_of(folder, tensors))

    def test_the_norm_is_that_of_all_layers_and_shares_are_of_its_square(self, tmp_path):
        updates = self.layers(tmp_path, 1.0, 2.0, 0.0)
        found = summarise(updates)
        assert found.norm == pytest.approx(math.hypot(*(u.norm for u in updates)))
        assert found.shares == pytest.approx((0.2, 0.8, 0.0))
        assert (found.rank_used, found.rank_given) == (2, 6)
        assert found.stable_rank == pytest.approx(1)
        assert found.effective_rank == pytest.approx(1)

    def test_figures_of_the_ranks_are_medians(self, tmp_path):
        b = [torch.eye(4), torch.diag(torch.tensor([1.0, 0, 0, 0])), torch.diag(torch.ones(4))]
        b[2][3, 3] = 0
        tensors = {}
        for number, matrix in enumerate(b):
            layer = f"base_model.model.layers.{number}"
            tensors |= lora_tensors(layer, lora_A=torch.eye(4), lora_B=matrix)
        found = summarise(layer_updates(adapter_of(tmp_path, tensors, r=4)))
        assert found.stable_rank == pytest.approx(3)
        assert found.effective_rank == pytest.approx(3)
        assert (found.rank_used, found.rank_given) == (8, 12)

    def test_a_layer_that_is_undefined_leaves_the_sum_undefined(self, tmp_path):
        found = summarise(self.layers(tmp_path, 1.0, NAN))
        assert found.norm is None
        assert all(math.isnan(share) for share in found.shares)
        assert (found.rank_used, found.rank_given) == (1, 2)

    def test_nothing_at_all_has_the_norm_zero_and_no_shares(self, tmp_path):
        found = summarise(self.layers(tmp_path, 0.0, 0.0))
        assert found.norm == 0.0
        assert all(math.isnan(share) for share in found.shares)
        assert found.stable_rank is None
        assert found.effective_rank is None

    def test_no_layer(self):
        found = summarise(())
        assert (found.norm, found.shares, found.rank_used) == (0.0, (), 0)

    @pytest.mark.parametrize("size", [1e-200, 1e200])
    def test_squares_that_leave_the_range_of_floats(self, tmp_path, size):
        tensors = {}
        for number in range(2):
            layer = f"base_model.model.layers.{number}"
            tensors |= lora_tensors(layer, lora_B=torch.full((4, 2), size, dtype=torch.float64))
        updates = layer_updates(adapter_of(tmp_path, tensors))
        found = summarise(updates)
        assert found.norm == pytest.approx(math.sqrt(2) * updates[0].norm)
        assert found.shares == pytest.approx((0.5, 0.5))
