import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from arca_diag.signals import SIGNAL_NAMES, SIGNALS, TokenScores, entropy_drop
from tests import reference
from tests.conftest import GARBAGE, Ragged, ragged

ENTROPIES = st.floats(0.0, 12.0)
VOCABULARY, HIDDEN = 7, 4
ARRAYS = [field.name for field in dataclasses.fields(TokenScores) if field.name != "mask"]


def measured(scores: TokenScores) -> dict[str, np.ndarray]:
    return {signal.name: signal.measure(scores) for signal in SIGNALS}


def one_token(**given: float) -> dict[str, float]:
    """All signals of a single token; every score that is not given is one of no importance."""
    usual = {
        "logprob": -1.0,
        "entropy": 1.0,
        "ref_logprob": -1.0,
        "ref_entropy": 1.0,
        "kl_exact": 0.0,
        "residual": 0.0,
        "ref_norm": 1.0,
    }
    arrays = {name: np.array([[value]]) for name, value in (usual | given).items()}
    found = measured(TokenScores(mask=np.array([[True]]), **arrays))
    return {name: values.item() for name, values in found.items()}


def drops_of(entropies: list[float], counts: str) -> list[float]:
    """Entropy drops of one completion; `counts` has an x where a token counts."""
    mask = np.array([[c == "x" for c in counts]])
    return entropy_drop(np.array([entropies]), mask)[0].tolist()


@dataclasses.dataclass
class Replayed:
    """One completion as a model would leave it: a list entry is a turn, an array has its tokens."""

    policy: list[np.ndarray]
    reference: list[np.ndarray]
    policy_hidden: list[np.ndarray]
    reference_hidden: list[np.ndarray]
    tokens: list[np.ndarray]


@st.composite
def replays(draw: st.DrawFn) -> list[Replayed]:
    """One to three completions of one to three turns; logit gaps up to 60."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.0, 1e-3, 1.0, 10.0, 30.0]))
    turns = st.lists(st.integers(1, 4), min_size=1, max_size=3)
    return [
        Replayed(
            policy=[rng.uniform(-spread, spread, (n, VOCABULARY)) for n in lengths],
            reference=[rng.uniform(-spread, spread, (n, VOCABULARY)) for n in lengths],
            policy_hidden=[rng.normal(size=(n, HIDDEN)) for n in lengths],
            reference_hidden=[rng.normal(size=(n, HIDDEN)) for n in lengths],
            tokens=[rng.integers(0, VOCABULARY, n) for n in lengths],
        )
        for lengths in draw(st.lists(turns, min_size=1, max_size=3))
    ]


def token_scores(replayed: list[Replayed], garbage: float) -> TokenScores:
    """What the replay hands over: turns two uncounted places apart, `garbage` in those."""
    width = max(sum(len(turn) + 2 for turn in one.tokens) for one in replayed)
    arrays = {name: np.full((len(replayed), width), garbage) for name in ARRAYS}
    mask = np.zeros((len(replayed), width), dtype=bool)
    for row, one in enumerate(replayed):
        start = 0
        for turn, tokens in enumerate(one.tokens):
            at = slice(start, start + len(tokens))
            log_p = special.log_softmax(one.policy[turn], axis=1)
            log_q = special.log_softmax(one.reference[turn], axis=1)
            p, q = np.exp(log_p), np.exp(log_q)
            each = np.arange(len(tokens))
            arrays["logprob"][row, at] = log_p[each, tokens]
            arrays["ref_logprob"][row, at] = log_q[each, tokens]
            arrays["entropy"][row, at] = special.entr(p).sum(axis=1)
            arrays["ref_entropy"][row, at] = special.entr(q).sum(axis=1)
            arrays["kl_exact"][row, at] = special.rel_entr(p, q).sum(axis=1)
            moved = one.policy_hidden[turn] - one.reference_hidden[turn]
            arrays["residual"][row, at] = np.linalg.norm(moved, axis=1)
            arrays["ref_norm"][row, at] = np.linalg.norm(one.reference_hidden[turn], axis=1)
            mask[row, at] = True
            start += len(tokens) + 2
    return TokenScores(mask=mask, **arrays)


class TestReference:
    @given(replays())
    def test_all_seven_signals_agree_with_the_reference(self, replayed):
        scores = token_scores(replayed, garbage=math.nan)
        found = measured(scores)
        for row, one in enumerate(replayed):
            expected = reference.signals(
                np.concatenate(one.policy).tolist(),
                np.concatenate(one.reference).tolist(),
                np.concatenate(one.policy_hidden).tolist(),
                np.concatenate(one.reference_hidden).tolist(),
                np.concatenate(one.tokens).tolist(),
                [len(turn) for turn in one.tokens],
            )
            assert set(expected) == set(found)
            for name, values in expected.items():
                ours = found[name][row, scores.mask[row]]
                np.testing.assert_allclose(ours, values, rtol=1e-9, atol=1e-12, err_msg=name)

    def test_the_reference_itself_has_the_known_entropies(self):
        assert reference.entropy([2.5] * 8) == pytest.approx(math.log(8), rel=1e-15)
        assert reference.entropy([200.0, 0.0]) == pytest.approx(0.0, abs=1e-12)
        assert reference.entropy([0.0, math.log(3)]) == pytest.approx(
            -0.25 * math.log(0.25) - 0.75 * math.log(0.75), rel=1e-14
        )

    def test_the_reference_itself_has_the_known_divergences(self):
        assert reference.kl([1.0, -2.0, 0.5], [1.0, -2.0, 0.5]) == 0.0
        # KL((1/4, 3/4) || (1/2, 1/2)) = log 2 - H(1/4, 3/4).
        by_hand = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
        assert reference.kl([0.0, math.log(3)], [0.0, 0.0]) == pytest.approx(by_hand, rel=1e-14)

    def test_the_reference_itself_survives_a_logit_gap_of_200(self):
        assert reference.log_probability([0.0, 200.0], 0) == -200.0
        assert reference.log_probability([0.0, 200.0], 1) == 0.0


class TestClosedForms:
    def test_a_certain_token_has_no_surprisal(self):
        assert one_token(logprob=0.0)["surprisal"] == 0.0

    def test_surprisal_is_minus_the_log_probability_under_the_policy(self):
        assert one_token(logprob=-0.75, ref_logprob=-9.0)["surprisal"] == 0.75

    def test_entropy_is_the_policys(self):
        assert one_token(entropy=0.5, ref_entropy=9.0)["entropy"] == 0.5

    @pytest.mark.parametrize(("policy", "ref"), [(-0.5, -2.0), (-2.0, -0.5)])
    def test_divergence_is_the_size_of_the_log_ratio_either_way(self, policy, ref):
        assert one_token(logprob=policy, ref_logprob=ref)["divergence"] == 1.5

    def test_an_adapter_that_moves_nothing_scores_exactly_zero(self):
        still = one_token(logprob=-1.7, ref_logprob=-1.7, kl_exact=0.0, residual=0.0)
        assert (still["divergence"], still["kl_exact"], still["residual"]) == (0.0, 0.0, 0.0)
        assert still["relative_residual"] == 0.0

    def test_kl_and_residual_are_passed_on(self):
        found = one_token(kl_exact=0.25, residual=3.0)
        assert (found["kl_exact"], found["residual"]) == (0.25, 3.0)

    def test_the_relative_residual_is_over_the_references_norm(self):
        assert one_token(residual=3.0, ref_norm=4.0)["relative_residual"] == 0.75


class TestEntropyReduction:
    def test_only_falls_count(self):
        assert drops_of([3.0, 1.0, 2.0, 0.5], "xxxx") == [2.0, 0.0, 1.5, 0.0]

    def test_the_last_token_of_a_completion_gets_nothing(self):
        assert drops_of([3.0], "x") == [0.0]
        assert drops_of([3.0, 2.0], "xx")[-1] == 0.0

    def test_a_tools_answer_between_two_turns_is_no_drop(self):
        nan = math.nan
        found = drops_of([5.0, 4.0, 9.0, 0.0, 3.0, 1.0, 0.0], "xx..xx.")
        np.testing.assert_array_equal(found, [1.0, 0.0, nan, nan, 2.0, 0.0, nan])

    def test_a_turn_of_one_token_gets_nothing(self):
        nan = math.nan
        np.testing.assert_array_equal(drops_of([5.0, 4.0, 3.0], "x.x"), [0.0, nan, 0.0])

    def test_it_is_of_the_policys_entropies(self):
        names = dict.fromkeys(ARRAYS, np.full((1, 2), 1.0))
        names["entropy"] = np.array([[3.0, 1.0]])
        names["ref_entropy"] = np.array([[9.0, 2.0]])
        found = measured(TokenScores(mask=np.ones((1, 2), dtype=bool), **names))
        assert found["entropy_reduction"].tolist() == [[2.0, 0.0]]

    @given(
        st.lists(
            st.lists(st.lists(ENTROPIES, min_size=1, max_size=4), min_size=1, max_size=3),
            min_size=1,
            max_size=4,
        ),
        st.integers(0, 2**32 - 1),
    )
    def test_it_agrees_with_a_walk_over_the_turns(self, dialogues, seed):
        rng = np.random.default_rng(seed)
        width = max(sum(len(turn) + 3 for turn in turns) for turns in dialogues)
        values = rng.choice(GARBAGE, size=(len(dialogues), width))
        expected = np.full((len(dialogues), width), math.nan)
        mask = np.zeros((len(dialogues), width), dtype=bool)
        for row, turns in enumerate(dialogues):
            start = rng.integers(0, 2)
            for turn, drops in zip(turns, reference.entropy_reduction(turns), strict=True):
                at = slice(start, start + len(turn))
                values[row, at], expected[row, at], mask[row, at] = turn, drops, True
                start += len(turn) + rng.integers(1, 3)
        np.testing.assert_array_equal(entropy_drop(values, mask), expected)

    @given(ragged(ENTROPIES))
    def test_a_drop_is_never_negative_nor_above_the_entropy_itself(self, it: Ragged):
        out = entropy_drop(it.values, it.mask)
        assert np.isnan(out[~it.mask]).all()
        assert (out[it.mask] >= 0).all()
        assert (out[it.mask] <= it.values[it.mask]).all()

    @pytest.mark.parametrize("shape", [(0, 0), (2, 0), (0, 3), (2, 3)])
    def test_nothing_counted_gives_nothing(self, shape):
        out = entropy_drop(np.ones(shape), np.zeros(shape, dtype=bool))
        assert out.shape == shape
        assert np.isnan(out).all()

    @pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-12])
    def test_an_impossible_counted_entropy_is_refused(self, bad):
        with pytest.raises(ValueError, match="counted value"):
            drops_of([1.0, bad], "xx")

    @pytest.mark.usefixtures("without_shape_checks")
    @pytest.mark.parametrize("shape", [(1, 3), (2, 1), (2, 4)])
    def test_shapes_that_differ_are_refused(self, shape):
        with pytest.raises(ValueError, match=r"must share one \(completion, token\) shape"):
            entropy_drop(np.ones((2, 3)), np.ones(shape, dtype=bool))


class TestInvariances:
    @pytest.mark.parametrize("garbage", GARBAGE)
    @given(replays())
    def test_what_stands_outside_the_mask_never_matters(self, garbage, replayed):
        clean, dirty = token_scores(replayed, math.nan), token_scores(replayed, garbage)
        expected = measured(clean)
        for name, values in measured(dirty).items():
            np.testing.assert_array_equal(
                values[dirty.mask], expected[name][clean.mask], err_msg=name
            )

    @given(replays())
    def test_every_signal_is_in_its_documented_range(self, replayed):
        scores = token_scores(replayed, math.nan)
        for name, values in measured(scores).items():
            assert values.shape == scores.mask.shape, name
            assert values.dtype == np.float64, name
            assert (values[scores.mask] >= -1e-12).all(), name
        assert (measured(scores)["entropy"][scores.mask] <= math.log(VOCABULARY) + 1e-12).all()

    @given(ragged(ENTROPIES), st.integers(1, 6))
    def test_padding_width_never_matters(self, it: Ragged, more):
        wide_values = np.pad(it.values, ((0, 0), (0, more)), constant_values=-7.0)
        wide_mask = np.pad(it.mask, ((0, 0), (0, more)))
        np.testing.assert_array_equal(
            entropy_drop(wide_values, wide_mask)[:, : it.mask.shape[1]],
            entropy_drop(it.values, it.mask),
        )

    @given(ragged(ENTROPIES))
    def test_completions_do_not_see_each_other(self, it: Ragged):
        together = entropy_drop(it.values, it.mask)
        np.testing.assert_array_equal(entropy_drop(it.values[::-1], it.mask[::-1])[::-1], together)
        for row in range(len(it.rows)):
            alone = entropy_drop(it.values[row : row + 1], it.mask[row : row + 1])
            np.testing.assert_array_equal(alone, together[row : row + 1])


class TestRegistry:
    def test_it_holds_the_seven_of_the_method_and_the_papers_four_first(self):
        assert SIGNAL_NAMES[:4] == ("surprisal", "entropy_reduction", "divergence", "residual")
        assert sorted(SIGNAL_NAMES[4:]) == ["entropy", "kl_exact", "relative_residual"]

    def test_each_says_its_unit_and_where_it_comes_from(self):
        units = {signal.name: signal.unit for signal in SIGNALS}
        assert units.pop("residual") == "hidden units"
        assert units.pop("relative_residual") == "1"
        assert set(units.values()) == {"nats"}
        equations = {"surprisal": "10", "entropy": "11", "divergence": "14", "residual": "15"}
        for signal in SIGNALS:
            assert signal.source
            if signal.name in equations:
                assert signal.source.endswith(f"2606.00257v1, Eq. {equations[signal.name]}")
