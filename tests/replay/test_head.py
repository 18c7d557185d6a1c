import gc
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from arca_diag.replay import head as head_module
from arca_diag.replay.head import HeadScores, score_tokens
from tests import reference

VOCABULARY = 11


def look_up(logits: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Hidden states that are nothing but row numbers, and the head that looks the logits up."""
    rows = torch.arange(len(logits), dtype=torch.float64)[:, None]
    return rows, lambda states: logits[states[:, 0].long()]


def score(
    ref_logits: Tensor, *logits: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[HeadScores, list[HeadScores]]:
    return score_tokens(
        look_up(ref_logits),
        [look_up(z) for z in logits],
        targets,
        torch.arange(len(targets)),
        vocabulary=ref_logits.shape[1],
        temperature=temperature,
    )


def single(
    logits: list[float],
    ref_logits: list[float],
    target: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    temperature: float = 1.0,
) -> tuple[float, float, float]:
    """Log-probability, entropy and KL of one position."""
    _, (found,) = score(
        torch.tensor([ref_logits], dtype=dtype),
        torch.tensor([logits], dtype=dtype),
        targets=torch.tensor([target]),
        temperature=temperature,
    )
    return found.logprob.item(), found.entropy.item(), found.kl_exact.item()


@contextmanager
def tiles_of(tokens: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(head_module, "_TILE_ELEMENTS", tokens * VOCABULARY)
        yield


def random_logits(tokens: int, count: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        4 * torch.randn(tokens, VOCABULARY, generator=generator, dtype=torch.float64).to(dtype)
        for _ in range(count)
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_scores_agree_with_the_float64_reference(temperature) -> None:
    ref, one, two = random_logits(23, 3)
    targets = torch.arange(23) % VOCABULARY
    of_ref, (of_one, of_two) = score(ref, one, two, targets=targets, temperature=temperature)
    for found, logits in ((of_ref, ref), (of_one, one), (of_two, two)):
        for t in range(23):
            policy = (logits[t] / temperature).tolist()
            base = (ref[t] / temperature).tolist()
            expected = (
                reference.log_probability(policy, int(targets[t])),
                reference.entropy(policy),
                reference.kl(policy, base),
            )
            row = (found.logprob[t], found.entropy[t], found.kl_exact[t])
            assert [x.item() for x in row] == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("tile", [1, 2, 5, 22, 23, 24])
def test_the_size_of_a_tile_moves_no_bit(tile, monkeypatch) -> None:
    ref, *adapted = random_logits(23, 3, torch.float32)
    targets = torch.arange(23) % VOCABULARY
    whole = score(ref, *adapted, targets=targets)
    with tiles_of(tile, monkeypatch):
        tiled = score(ref, *adapted, targets=targets)
    for one, other in zip([whole[0], *whole[1]], [tiled[0], *tiled[1]], strict=True):
        for name in ("logprob", "entropy", "kl_exact"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("tile", [1, 4, 7])
def test_no_more_than_a_tile_of_logits_is_ever_held(tile, monkeypatch) -> None:
    asked: list[int] = []
    alive: list[weakref.ref[Tensor]] = []
    most = held = 0

    def watched(states: Tensor) -> Tensor:
        nonlocal most, held
        wide = (t for t in gc.get_objects() if type(t) is Tensor and t.ndim == 2)
        sizes = {t.data_ptr(): len(t) for t in wide if t.shape[1] == VOCABULARY}
        held = max(held, sum(sizes.values()))
        asked.append(len(states))
        logits = torch.ones(len(states), VOCABULARY) * states[:, :1]
        alive.append(weakref.ref(logits))
        most = max(most, sum(len(z) for ref in alive if (z := ref()) is not None))
        return logits

    hidden = torch.randn(23, 4)
    with tiles_of(tile, monkeypatch):
        score_tokens(
            (hidden, watched),
            [(hidden, watched)] * 3,
            torch.zeros(23, dtype=torch.long),
            torch.arange(23),
            vocabulary=VOCABULARY,
            temperature=1.0,
        )
    assert max(asked) == tile
    assert sum(asked) == 4 * 23
    assert most <= 2 * tile  # the reference's and one other's; those of the tile before are gone
    assert held <= tile  # nothing else as wide is kept from one model to the next


def test_a_vocabulary_larger_than_a_tile_still_goes_one_token_at_a_time(monkeypatch) -> None:
    monkeypatch.setattr(head_module, "_TILE_ELEMENTS", VOCABULARY - 1)
    (ref,) = random_logits(3, 1)
    found, _ = score(ref, targets=torch.zeros(3, dtype=torch.long))
    assert len(found.logprob) == 3


@pytest.mark.parametrize("gap", [200.0, 1000.0])
def test_large_gaps_neither_overflow_nor_vanish(gap) -> None:
    logprob, entropy, kl = single([0.0, gap, 0.0], [0.0, gap, 0.0], target=0)
    assert logprob == pytest.approx(-gap, rel=1e-6)
    assert entropy == pytest.approx(0.0, abs=1e-30)
    assert kl == 0.0
    # The policy is sure of what the reference rules out: KL is the reference's surprise.
    logprob, entropy, kl = single([gap, 0.0, 0.0], [0.0, gap, 0.0], target=0)
    assert logprob == 0.0
    assert entropy == pytest.approx(0.0, abs=1e-30)
    assert kl == pytest.approx(gap, rel=1e-6)


@pytest.mark.parametrize("size", [2, 22, 49152])
def test_equal_logits_have_entropy_log_v(size) -> None:
    logprob, entropy, kl = single([3.0] * size, [-1.0] * size, target=1)
    assert logprob == pytest.approx(-math.log(size), rel=1e-6)
    assert entropy == pytest.approx(math.log(size), rel=1e-6)
    assert kl == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_kl_of_a_distribution_from_itself_is_exactly_zero(dtype) -> None:
    logits, _ = random_logits(40, 2, dtype)
    of_ref, (same,) = score(logits, logits.clone(), targets=torch.zeros(40, dtype=torch.long))
    assert not same.kl_exact.any()
    assert not of_ref.kl_exact.any()


def test_kl_of_two_words_by_hand() -> None:
    p, q = 0.8, 0.25
    _, entropy, kl = single(
        [math.log(p), math.log(1 - p)], [math.log(q), math.log(1 - q)], dtype=torch.float64
    )
    assert kl == pytest.approx(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert entropy == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("shift", [0.0, 20.0])
def test_a_small_kl_over_a_large_vocabulary_is_not_lost_in_rounding(
    temperature: float, shift: float
) -> None:
    """At .005 nats and at 1e-6, as of an early checkpoint, with log S about 15."""
    generator = torch.Generator().manual_seed(0)
    ref = 3 * torch.randn(48, 49152, generator=generator)
    for moved, most in ((0.1, 1e-6), (1e-3, 5e-7)):
        policy = ref + moved * torch.randn(48, 49152, generator=generator) + shift
        wide, ref_wide = ((z.double() / temperature).log_softmax(-1) for z in (policy, ref))
        truth = (wide.exp() * (wide - ref_wide)).sum(-1)
        _, (found,) = score(
            ref, policy, targets=torch.zeros(48, dtype=torch.long), temperature=temperature
        )
        assert 0.1 < truth.mean() / (moved / temperature) ** 2 < 0.9
        np.testing.assert_allclose(found.kl_exact, truth, rtol=0, atol=most)


def test_kl_is_of_the_policy_from_the_reference_and_not_the_reverse() -> None:
    policy, base = [0.0, 3.0, -1.0], [2.0, 0.0, 0.0]
    *_, kl = single(policy, base, dtype=torch.float64)
    assert kl == pytest.approx(reference.kl(policy, base), rel=1e-12)
    assert abs(kl - reference.kl(base, policy)) > 0.1


def test_kl_and_entropy_are_never_negative_through_rounding() -> None:
    logits, _ = random_logits(400, 2, torch.float32)
    nearly = logits + 1e-7 * torch.randn_like(logits)
    _, (found,) = score(logits, nearly, targets=torch.zeros(400, dtype=torch.long))
    assert found.kl_exact.min() >= 0
    sure = torch.zeros(5, VOCABULARY)
    sure[:, 0] = 40
    _, (found,) = score(sure, sure, targets=torch.zeros(5, dtype=torch.long))
    assert found.entropy.min() >= 0
    assert not torch.signbit(found.entropy).any()


def test_a_word_ruled_out_by_minus_infinity_counts_for_nothing() -> None:
    off = -math.inf
    logprob, entropy, kl = single([0.0, 0.0, off], [0.0, 0.0, off])
    assert logprob == pytest.approx(-math.log(2), rel=1e-6)
    assert entropy == pytest.approx(math.log(2), rel=1e-6)
    assert kl == 0.0
    # Ruled out by the policy alone: its share of KL is 0 log 0.
    *_, kl = single([0.0, 0.0, off], [0.0, 0.0, 0.0])
    assert kl == pytest.approx(math.log(3 / 2), rel=1e-6)
    # Ruled out by the reference alone: no finite KL.
    *_, kl = single([0.0, 0.0, 0.0], [0.0, 0.0, off])
    assert kl == math.inf
    logprob, *_ = single([0.0, 0.0, off], [0.0, 0.0, off], target=2)
    assert logprob == -math.inf


def test_logits_in_bfloat16_are_scored_in_float32() -> None:
    ref, policy = random_logits(30, 2, torch.bfloat16)
    targets = torch.arange(30) % VOCABULARY
    _, (found,) = score(ref, policy, targets=targets, temperature=0.7)
    _, (truth,) = score(ref.double(), policy.double(), targets=targets, temperature=0.7)
    for name in ("logprob", "entropy", "kl_exact"):
        np.testing.assert_allclose(getattr(found, name), getattr(truth, name), rtol=0, atol=1e-5)


def test_scores_are_float64_on_the_cpu_even_without_a_token() -> None:
    for tokens in (0, 3):
        of_ref, (found,) = score(
            torch.zeros(tokens, VOCABULARY),
            torch.zeros(tokens, VOCABULARY),
            targets=torch.zeros(tokens, dtype=torch.long),
        )
        for scores in (of_ref, found):
            for name in ("logprob", "entropy", "kl_exact"):
                values = getattr(scores, name)
                assert values.dtype == torch.float64
                assert values.shape == (tokens,)
