"""Credit that goes by kind or place: planted truth, plain loops, and what chance gives."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats

from arca_diag.diagnostics.agnosticism import (
    MIN_TOKENS,
    POSITIONS,
    Layout,
    explained,
    explained_mean,
    overlap,
    positions,
    shares,
    shuffled,
)
from arca_diag.diagnostics.uncertainty import cluster_mean


def layout_of(lengths: list[int], prompts: list[int]) -> Layout:
    return Layout(completion=np.repeat(np.arange(len(lengths)), lengths), prompt=np.array(prompts))


def drawn(seed: int, n: int = 24, each: int = 2) -> tuple[Layout, np.random.Generator, np.ndarray]:
    """Completions of 20 to 40 tokens, two a prompt, of 12 types drawn alike."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 41, size=n)
    layout = layout_of(list(lengths), list(np.arange(n) // each))
    return layout, rng, rng.integers(0, 12, size=int(lengths.sum()))


def normalised(raw: np.ndarray, layout: Layout) -> np.ndarray:
    return raw / np.bincount(layout.completion, weights=raw)[layout.completion]


def by_loops(
    weights: np.ndarray, labels: np.ndarray, layout: Layout, *, of_itself: bool = False
) -> list[float]:
    """The same with dictionaries, token by token; `of_itself`, each prompt is in its own table."""
    n = layout.n_tokens
    means: dict[int, dict[int, float]] = {}
    for prompt in set(layout.prompt.tolist()):
        seen = defaultdict(list)
        for t, c in enumerate(layout.completion):
            if layout.prompt[c] == prompt:
                seen[int(labels[t])].append(n[c] * weights[t])
        means[prompt] = {v: math.fsum(x) / len(x) for v, x in seen.items()}
    out = []
    for c in range(len(n)):
        inside = np.flatnonzero(layout.completion == c)
        others = [m for p, m in means.items() if of_itself or p != layout.prompt[c]]
        pull = 0 if of_itself else 1
        lifts = []
        for t in inside:
            known = [m[int(labels[t])] for m in others if int(labels[t]) in m]
            lifts.append((pull + math.fsum(known)) / (pull + len(known)))
        total = math.fsum(lifts)
        even = math.fsum(abs(weights[t] - 1 / n[c]) for t in inside) / 2
        apart = math.fsum(abs(weights[t] - p / total) for t, p in zip(inside, lifts, strict=True))
        out.append(1 - apart / 2 / even if n[c] >= MIN_TOKENS and even >= 0.01 else math.nan)
    return out


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_plain_loops_give(seed):
    layout, rng, labels = drawn(seed, n=9, each=3)
    weights = normalised(rng.exponential(size=len(labels)), layout)
    np.testing.assert_allclose(
        explained(weights, labels, layout), by_loops(weights, labels, layout), rtol=1e-9
    )


def mean_over_prompts(
    weights: np.ndarray, labels: np.ndarray, layout: Layout, *, of_itself: bool = False
) -> float:
    values = np.array(by_loops(weights, labels, layout, of_itself=of_itself))
    each = [np.nanmean(values[layout.prompt == prompt]) for prompt in set(layout.prompt.tolist())]
    return float(np.mean(each))


def only(kept: np.ndarray, layout: Layout) -> Layout:
    """The layout of some of the completions, numbered anew."""
    _, prompts = np.unique(layout.prompt[kept], return_inverse=True)
    return layout_of(list(layout.n_tokens[kept]), list(prompts))


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_leaving_each_prompt_out_of_table_and_mean(seed):
    layout, rng, labels = drawn(seed, n=12, each=2)
    labels = rng.integers(0, 80, size=len(labels))  # so many that a prompt lacks some
    by_kind = normalised(np.where(labels < 20, 1.0, 0.01), layout)
    mixed = rng.uniform(size=6)[layout.prompt][layout.completion]
    weights = mixed * by_kind + (1 - mixed) / layout.n_tokens[layout.completion]
    left = []
    for prompt in range(6):
        kept = layout.prompt != prompt
        inside = kept[layout.completion]
        left.append(mean_over_prompts(weights[inside], labels[inside], only(kept, layout)))
    error = math.sqrt(5 / 6 * np.sum((np.array(left) - np.mean(left)) ** 2))
    found = explained_mean(weights, labels, layout)
    assert found.value == pytest.approx(mean_over_prompts(weights, labels, layout))
    half = stats.t.ppf(0.975, 5) * error
    most = mean_over_prompts(weights, labels, layout, of_itself=True)
    assert most > found.value + 0.05
    assert (found.low, found.high) == pytest.approx((found.value - half, most + half))
    assert found.n_clusters == 6


def uneven(seed: int, prompts: int) -> tuple[np.ndarray, np.ndarray, Layout]:
    """Credit that goes by its label more on some prompts than on others, else by context."""
    layout, rng, labels = drawn(seed, n=4 * prompts, each=4)
    by_kind = normalised(np.where(labels == 2, 1.0, 1e-3), layout)
    context = normalised(rng.exponential(size=len(labels)) ** 4, layout)
    mixed = np.clip(0.66 + 0.25 * rng.standard_normal(prompts), 0, 1)[layout.prompt]
    mixed = mixed[layout.completion]
    return mixed * by_kind + (1 - mixed) * context, labels, layout


def test_the_interval_holds_the_error_of_the_table_that_all_prompts_share():
    """Student's interval on the prompts' values passes the truth far too often."""
    truth = explained_mean(*uneven(0, prompts=400)).value
    past, students = 0, 0
    for seed in range(1, 401):
        weights, labels, layout = uneven(seed, prompts=16)
        past += explained_mean(weights, labels, layout).low > truth
        students += cluster_mean(explained(weights, labels, layout), layout.prompt).low > truth
    assert past <= 0.04 * 400
    assert students >= 2 * past


@pytest.mark.parametrize("labels_alike", [False, True])
def test_the_interval_holds_what_a_table_of_a_whole_population_explains(labels_alike):
    """Where prompts are alike and labels many, a table of few prompts explains too little."""
    rng = np.random.default_rng(0)
    lift = rng.exponential(size=200) ** 2 if labels_alike else np.ones(200)

    def run(seed: int, prompts: int) -> tuple[np.ndarray, np.ndarray, Layout]:
        layout, rng, _ = drawn(seed, n=4 * prompts, each=4)
        labels = rng.integers(0, 200, size=len(layout.completion))
        return normalised(lift[labels] * rng.exponential(size=len(labels)), layout), labels, layout

    truth = explained_mean(*run(0, prompts=2000)).value
    held = [
        found.low <= truth <= found.high
        for found in (explained_mean(*run(seed, prompts=16)) for seed in range(1, 201))
    ]
    assert np.mean(held) >= 0.95


def test_limits_need_three_prompts_in_the_table_and_two_that_have_a_value():
    lengths, rng = [20] * 4, np.random.default_rng(0)
    labels = np.arange(80) % 5
    two = layout_of(lengths, [0, 0, 1, 1])
    found = explained_mean(normalised(rng.exponential(size=80), two), labels, two)
    assert not math.isnan(found.value)
    assert math.isnan(found.low)
    four = layout_of(lengths, [0, 1, 2, 3])
    weights = np.full(80, 0.05)
    weights[:20] = normalised(rng.exponential(size=80), four)[:20]
    found = explained_mean(weights, labels, four)
    assert found.n_clusters == 1
    assert math.isnan(found.low)
    nothing = explained_mean(np.full(80, 0.05), labels, four)
    assert nothing.n_clusters == 0
    assert math.isnan(nothing.value)


def test_credit_of_one_kind_of_token_is_explained_and_credit_by_context_is_not():
    layout, rng, labels = drawn(1)
    by_kind = normalised(np.where(labels < 2, 1.0, 1e-9), layout)
    assert np.nanmean(explained(by_kind, labels, layout)) > 0.85
    by_context = normalised(rng.exponential(size=len(labels)), layout)
    assert np.nanmean(explained(by_context, labels, layout)) < 0.1
    one_token = np.zeros(len(labels))
    starts = np.flatnonzero(np.diff(layout.completion, prepend=-1))
    one_token[starts + rng.integers(0, 20, size=len(starts))] = 1.0
    assert np.nanmean(explained(one_token, labels, layout)) < 0.1


def test_credit_by_place_is_explained_by_place_and_not_by_kind():
    layout, _, labels = drawn(2)
    places = positions(layout)
    weights = normalised(np.where(places == 0, 1.0, 0.01), layout)
    assert np.nanmean(explained(weights, places, layout)) > 0.8
    assert np.nanmean(explained(weights, labels, layout)) < 0.2


def test_half_of_the_way_is_about_a_half():
    layout, rng, labels = drawn(3, n=200)
    by_kind = normalised(np.where(labels < 2, 1.0, 1e-9), layout)
    by_context = normalised(np.where(rng.random(len(labels)) < 1 / 6, 1.0, 1e-9), layout)
    both = 0.5 * by_kind + 0.5 * by_context
    assert 0.3 < np.nanmean(explained(both, labels, layout)) < 0.7


def test_a_prompt_is_not_predicted_from_itself():
    """Each prompt has types of its own: the table knows nothing of them."""
    lengths, prompts = [20] * 10, list(range(10))
    layout = layout_of(lengths, prompts)
    labels = np.arange(200)
    weights = normalised(np.where(labels % 20 == 3, 1.0, 0.01), layout)
    np.testing.assert_allclose(explained(weights, labels, layout), 0.0, atol=1e-12)


def test_even_credit_short_answers_and_a_single_prompt_have_nothing_to_explain():
    layout = layout_of([20, 20, 4, 20], [0, 1, 2, 3])
    weights = normalised(np.linspace(1, 3, 64), layout)
    weights[20:40] = 1 / 20
    found = explained(weights, np.arange(64) % 5, layout)
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, False])
    alone = layout_of([20, 20], [0, 0])
    assert np.isnan(explained(np.full(40, 0.05), np.arange(40) % 5, alone)).all()


def test_places_are_the_first_the_last_and_tenths_between():
    layout = layout_of([1, 2, 21], [0, 1, 2])
    names = [POSITIONS[p] for p in positions(layout)]
    assert names[:3] == ["first", "first", "last"]
    assert names[3] == "first"
    assert names[-1] == "last"
    assert names[4] == "tenth-1"
    assert names[-2] == "tenth-10"
    tenths = [int(name.split("-")[1]) for name in names[4:-1]]
    assert tenths == sorted(tenths)
    assert set(tenths) == set(range(1, 11))


def test_shares_add_up_and_their_lift_is_one_by_chance():
    layout, rng, labels = drawn(4)
    weights = normalised(rng.exponential(size=len(labels)), layout)
    held = shares(weights, labels, 12, layout)
    np.testing.assert_allclose(held.sum(axis=1), 1.0)
    assert held[3, 5] == pytest.approx(
        sum(
            w
            for w, v, c in zip(weights, labels, layout.completion, strict=True)
            if (v, c) == (5, 3)
        )
    )
    even = shares(1 / layout.n_tokens[layout.completion], labels, 12, layout)
    mean = np.mean(
        [shares(weights[shuffled(layout, rng)], labels, 12, layout) for _ in range(2000)], axis=0
    )
    np.testing.assert_allclose(mean, even, atol=0.01)


def test_an_order_moves_tokens_within_their_completion_alone():
    layout, rng, _ = drawn(5)
    order = shuffled(layout, rng)
    np.testing.assert_array_equal(layout.completion[order], layout.completion)
    assert sorted(order) == list(range(len(order)))
    assert (order != np.arange(len(order))).mean() > 0.9


def overlap_by_loops(weights: np.ndarray, labels: np.ndarray, layout: Layout) -> float:
    """Every pair of prompts, label by label."""
    held: dict[int, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for weight, label, c in zip(weights, labels, layout.completion, strict=True):
        held[int(layout.prompt[c])][int(label)].append(float(weight))
    credit = {
        prompt: {v: math.fsum(w) / int((layout.prompt == prompt).sum()) for v, w in of.items()}
        for prompt, of in held.items()
    }
    pairs = [
        math.fsum(min(share, other.get(v, 0.0)) for v, share in one.items())
        for one, other in itertools.combinations(credit.values(), 2)
    ]
    return math.fsum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_overlap_is_the_mean_over_all_pairs_of_prompts(seed):
    layout, rng, labels = drawn(seed, n=13, each=3)
    weights = normalised(rng.exponential(size=len(labels)) ** 3, layout)
    assert overlap(weights, labels, layout) == pytest.approx(
        overlap_by_loops(weights, labels, layout), rel=1e-12
    )


def test_overlap_is_one_for_the_same_credit_none_for_other_types_and_undefined_alone():
    layout = layout_of([4, 4, 4], [0, 1, 2])
    weights = np.tile([0.1, 0.2, 0.3, 0.4], 3)
    assert overlap(weights, np.tile(np.arange(4), 3), layout) == pytest.approx(1.0)
    assert overlap(weights, np.arange(12), layout) == 0.0
    assert math.isnan(overlap(weights, np.arange(12), layout_of([4, 4, 4], [0, 0, 0])))


def test_even_credit_overlaps_more_than_structureless_credit_and_so_is_no_null_for_it():
    layout, rng, labels = drawn(6)
    even = 1 / layout.n_tokens[layout.completion]
    sparse = normalised(rng.exponential(size=len(labels)) ** 4, layout)
    in_random_order = [overlap(sparse[shuffled(layout, rng)], labels, layout) for _ in range(50)]
    assert overlap(even, labels, layout) > max(in_random_order) + 0.1
    low, high = np.quantile(in_random_order, [0.0, 1.0])
    assert low - 0.02 < overlap(sparse, labels, layout) < high + 0.02


def test_credit_of_one_kind_is_shared_by_prompts_far_beyond_random_order():
    layout, rng, labels = drawn(7)
    weights = normalised(np.where(labels < 2, 1.0, 1e-9), layout)
    null = max(overlap(weights[shuffled(layout, rng)], labels, layout) for _ in range(50))
    assert overlap(weights, labels, layout) > null + 0.2


def test_names_of_labels_and_order_of_completions_move_nothing():
    layout, rng, labels = drawn(8, n=12, each=3)
    weights = normalised(rng.exponential(size=len(labels)), layout)
    names = rng.permutation(40)[:12]
    order = rng.permutation(12)
    rows = np.concatenate([np.flatnonzero(layout.completion == c) for c in order])
    moved = layout_of(list(layout.n_tokens[order]), list(rng.permutation(4)[layout.prompt[order]]))
    np.testing.assert_allclose(
        explained(weights[rows], names[labels[rows]], moved),
        explained(weights, labels, layout)[order],
        rtol=1e-12,
    )
    assert overlap(weights[rows], names[labels[rows]], moved) == pytest.approx(
        overlap(weights, labels, layout), rel=1e-12
    )


def test_random_orders_of_credit_by_kind_are_explained_by_nothing():
    layout, rng, labels = drawn(9)
    weights = normalised(np.where(labels < 2, 1.0, 1e-9), layout)
    null = [
        float(np.nanmean(explained(weights[shuffled(layout, rng)], by, layout)))
        for by in (labels, positions(layout))
        for _ in range(50)
    ]
    assert max(np.abs(null)) < 0.1


def test_one_template_for_all_prompts_cannot_be_told_from_context_and_even_credit_shows_it():
    """Credit of context alone; but on every prompt the text is the same."""
    layout = layout_of([12] * 10, list(range(10)))
    labels = np.tile(np.arange(12), 10)
    rng = np.random.default_rng(0)
    weights = normalised(np.tile(rng.exponential(size=12) ** 3, 10), layout)
    assert np.nanmin(explained(weights, labels, layout)) > 0.8
    assert np.nanmin(explained(weights, positions(layout), layout)) > 0.8
    assert overlap(np.full(120, 1 / 12), labels, layout) == pytest.approx(1.0)
    other, _, drawn_labels = drawn(10)
    assert overlap(1 / other.n_tokens[other.completion], drawn_labels, other) < 0.8
