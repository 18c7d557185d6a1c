"""The slow and obvious truth that the package is tested against.

One completion at a time, the counted tokens only: no masks, no padding, no vectorisation, no
code of the package and, where a second formula exists, not its formula. What starts from logits
is plain float64; what starts from scores or weights is exact (rationals), rounded once at the
end. Undefined is NaN, as in the package.
"""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

NAN = math.nan
Vector = Sequence[float]


# From logits and hidden states to the seven signals.


def log_sum_exp(logits: Vector) -> float:
    top = max(logits)
    return top + math.log(math.fsum(math.exp(z - top) for z in logits))


def log_probability(logits: Vector, token: int) -> float:
    return logits[token] - log_sum_exp(logits)


def entropy(logits: Vector) -> float:
    """logsumexp(z) - sum_v p_v z_v, not -sum_v p_v log p_v."""
    normaliser = log_sum_exp(logits)
    expected = math.fsum(math.exp(z - normaliser) * z for z in logits)
    return normaliser - expected


def kl(policy: Vector, reference: Vector) -> float:
    """sum_v p_v (z_v - z_ref_v) - (logsumexp(z) - logsumexp(z_ref)): one sum over all words."""
    normaliser = log_sum_exp(policy)
    gap = math.fsum(
        math.exp(z - normaliser) * (z - z_ref) for z, z_ref in zip(policy, reference, strict=True)
    )
    return gap - (normaliser - log_sum_exp(reference))


def norm(vector: Vector) -> float:
    return math.sqrt(math.fsum(x * x for x in vector))


def entropy_reduction(turns: Sequence[Vector]) -> list[list[float]]:
    """Walk over the turns of one completion: what each next token of a turn takes away."""
    reduced = []
    for turn in turns:
        drops = []
        for place, here in enumerate(turn):
            is_last = place == len(turn) - 1
            if is_last or turn[place + 1] > here:
                drops.append(0.0)
            else:
                drops.append(here - turn[place + 1])
        reduced.append(drops)
    return reduced


def signals(
    policy_logits: Sequence[Vector],
    reference_logits: Sequence[Vector],
    policy_hidden: Sequence[Vector],
    reference_hidden: Sequence[Vector],
    tokens: Sequence[int],
    turn_lengths: Sequence[int],
) -> dict[str, list[float]]:
    """All seven signals of one completion's counted tokens, turn after turn.

    Entry t of the logits and hidden states is taken at the position that predicts token t.
    """
    found: dict[str, list[float]] = {
        name: []
        for name in (
            "surprisal",
            "entropy",
            "entropy_reduction",
            "divergence",
            "kl_exact",
            "residual",
            "relative_residual",
        )
    }
    for t, token in enumerate(tokens):
        log_policy = log_probability(policy_logits[t], token)
        log_reference = log_probability(reference_logits[t], token)
        moved = norm([a - b for a, b in zip(policy_hidden[t], reference_hidden[t], strict=True)])
        found["surprisal"].append(0.0 - log_policy)
        found["entropy"].append(entropy(policy_logits[t]))
        found["divergence"].append(
            log_policy - log_reference if log_policy > log_reference else log_reference - log_policy
        )
        found["kl_exact"].append(kl(policy_logits[t], reference_logits[t]))
        found["residual"].append(moved)
        found["relative_residual"].append(moved / norm(reference_hidden[t]))
    turns, start = [], 0
    for length in turn_lengths:
        turns.append(found["entropy"][start : start + length])
        start += length
    for drops in entropy_reduction(turns):
        found["entropy_reduction"].extend(drops)
    return found


# From scores to weights.


def credit_weights(scores: Vector, *, epsilon: float = 1e-8, sharpening: float = 1) -> list[float]:
    """Weights of one completion's counted tokens; rationals at a whole s, logarithms else."""
    if all(score == 0 for score in scores):
        return [NAN] * len(scores)
    floored = [Fraction(score) + Fraction(epsilon) for score in scores]
    if sharpening == int(sharpening):
        powered = [base ** int(sharpening) for base in floored]
        return [float(x / sum(powered)) for x in powered]
    logs = [sharpening * _log(base) if base else -math.inf for base in floored]
    return [math.exp(x - log_sum_exp(logs)) for x in logs]


def floor_share(scores: Vector, *, epsilon: float = 1e-8) -> float:
    """What each token would have if only the floor were handed out, added up."""
    if len(scores) < 2 or all(score == 0 for score in scores):
        return NAN
    whole = sum(Fraction(score) for score in scores) + len(scores) * Fraction(epsilon)
    return float(sum(Fraction(epsilon) / whole for _ in scores))


def _log(number: Fraction) -> float:
    return math.log(number.numerator) - math.log(number.denominator)


# From the weights of one completion to one number.


def no_credit(weights: Vector) -> bool:
    return len(weights) < 2 or any(math.isnan(w) for w in weights) or sum(weights) == 0


def gini(weights: Vector) -> float:
    """Half the relative mean absolute difference over all T^2 ordered pairs."""
    if no_credit(weights):
        return NAN
    w = [Fraction(x) for x in weights]
    mean_difference = sum(abs(a - b) for a in w for b in w) / len(w) ** 2
    return float(mean_difference / (2 * sum(w) / len(w)))


def gini_corrected(weights: Vector) -> float:
    """The same over the T (T - 1) pairs of two different tokens."""
    if no_credit(weights):
        return NAN
    w = [Fraction(x) for x in weights]
    pairs = [abs(a - b) for i, a in enumerate(w) for j, b in enumerate(w) if i != j]
    return float(sum(pairs) / len(pairs) / (2 * sum(w) / len(w)))


def effn_ratio(weights: Vector) -> float:
    """1 / (1 + squared coefficient of variation)."""
    if no_credit(weights):
        return NAN
    w = [Fraction(x) for x in weights]
    mean = sum(w) / len(w)
    variance = sum((x - mean) ** 2 for x in w) / len(w)
    return float(1 / (1 + variance / mean**2))


def effn_corrected(weights: Vector) -> float:
    """From the Simpson sum: the chance that two draws by credit give the same token."""
    if no_credit(weights):
        return NAN
    shares = [Fraction(x) / sum(Fraction(y) for y in weights) for x in weights]
    same_token_twice = sum(share * share for share in shares)
    return float((1 / same_token_twice - 1) / (len(shares) - 1))


def token_share_90(weights: Vector) -> float:
    """Take the heaviest token left until 90% of the credit is held (short by 1e-12 is held)."""
    if no_credit(weights):
        return NAN
    left = [Fraction(x) for x in weights]
    wanted = sum(left) * (Fraction(9, 10) - Fraction(1, 10**12))
    taken: list[Fraction] = []
    while sum(taken) < wanted:
        heaviest = max(left)
        left.remove(heaviest)
        taken.append(heaviest)
    return len(taken) / len(weights)


DIAGNOSTICS = {
    "gini": gini,
    "effn_ratio": effn_ratio,
    "gini_corrected": gini_corrected,
    "effn_corrected": effn_corrected,
    "token_share_90": token_share_90,
}


def total_variation(weights: Vector, other: Vector) -> float:
    """What has to be taken away somewhere to be put elsewhere: half of the moves, one-sided."""
    if no_credit(weights) or no_credit(other):
        return NAN
    gained = [Fraction(a) - Fraction(b) for a, b in zip(weights, other, strict=True) if a > b]
    return float(sum(gained))


def gini_of_orders(
    turns: Sequence[Vector], *, epsilon: float = 1e-8, sharpening: float = 1
) -> list[float]:
    """G^ by entropy reduction in every order of the entropies; the lengths of turns stay."""
    found = []
    for order in itertools.permutations([x for turn in turns for x in turn]):
        rest = iter(order)
        dealt = [[next(rest) for _ in turn] for turn in turns]
        drops = [x for turn in entropy_reduction(dealt) for x in turn]
        found.append(gini_corrected(credit_weights(drops, epsilon=epsilon, sharpening=sharpening)))
    return found


def gini_permuted(turns: Sequence[Vector], **credit: float) -> float:
    """Mean over every order that gives credit."""
    defined = [g for g in gini_of_orders(turns, **credit) if not math.isnan(g)]
    return math.fsum(defined) / len(defined) if defined else NAN


def without_ends(values: Sequence[float], *, closed: bool) -> list[float]:
    """Of one completion's counted tokens, all but the first and, if it closes, the last."""
    left = list(values)
    if closed and left:
        left.pop()
    return left[1:] if len(values) > 1 else []


# From the raw scores of two signals to one number.


def mid_ranks(scores: Vector) -> list[Fraction]:
    """Scores below, and half of those that tie: by counting, in exact numbers."""
    return [
        sum(x < y for x in scores) + Fraction(1 + sum(x == y for x in scores), 2) for y in scores
    ]


def pearson(one: Sequence[Fraction], other: Sequence[Fraction]) -> float:
    n = len(one)
    a, b = ([x - sum(side) / Fraction(n) for x in side] for side in (one, other))
    both = sum(x * y for x, y in zip(a, b, strict=True))
    square = Fraction(both * both, sum(x * x for x in a) * sum(y * y for y in b))
    return math.copysign(math.sqrt(square), both)


def incomparable(one: Vector, other: Vector) -> bool:
    return len(one) < 8 or len(set(one)) == 1 or len(set(other)) == 1


def rank_agreement(one: Vector, other: Vector) -> float:
    if incomparable(one, other):
        return NAN
    return pearson(mid_ranks(one), mid_ranks(other))


def rotations(scores: Vector) -> list[list[float]]:
    return [[*scores[k:], *scores[:k]] for k in range(len(scores))]


def rank_agreement_null(one: Vector, other: Vector) -> float:
    """Rotate, measure, and take the mean: no closed form."""
    if incomparable(one, other):
        return NAN
    found = [rank_agreement(one, rotated) for rotated in rotations(other)[1:]]
    return math.fsum(found) / len(found)


def rotation_share(one: Vector, other: Vector) -> float:
    if incomparable(one, other):
        return NAN
    found = [
        sum(x * y for x, y in zip(mid_ranks(one), mid_ranks(rotated), strict=True))
        for rotated in rotations(other)
    ]
    return sum(product >= found[0] for product in found) / len(found)


def off_the_line(ranks: Sequence[Fraction]) -> list[Fraction]:
    """What least squares leave of ranks after a straight line in position."""
    n = len(ranks)
    middle, mean = Fraction(n - 1, 2), sum(ranks) / Fraction(n)
    slope = sum((t - middle) * r for t, r in enumerate(ranks)) / sum(
        (t - middle) ** 2 for t in range(n)
    )
    return [r - mean - slope * (t - middle) for t, r in enumerate(ranks)]


def rank_agreement_partial(one: Vector, other: Vector) -> float:
    """Correlate the remainders, not the three correlations."""
    if incomparable(one, other):
        return NAN
    left = [off_the_line(mid_ranks(side)) for side in (one, other)]
    if not any(left[0]) or not any(left[1]):
        return NAN
    return pearson(*left)


def top_members(scores: Vector) -> list[Fraction]:
    """Hand a fifth of the tokens' places out, the highest score first; a tie shares the rest."""
    places = math.ceil(Fraction(len(scores), 5))
    member = [Fraction(0)] * len(scores)
    for value in sorted(set(scores), reverse=True):
        tied = [t for t, score in enumerate(scores) if score == value]
        given = min(places, len(tied))
        for t in tied:
            member[t] = Fraction(given, len(tied))
        places -= given
    return member


def top20_overlap(one: Vector, other: Vector) -> float:
    if incomparable(one, other):
        return NAN
    a, b = top_members(one), top_members(other)
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / sum(a))


def top20_overlap_null(one: Vector, other: Vector) -> float:
    if incomparable(one, other):
        return NAN
    found = [top20_overlap(one, rotated) for rotated in rotations(other)[1:]]
    return math.fsum(found) / len(found)


AGREEMENTS = {
    "rank_agreement": rank_agreement,
    "rank_agreement_null": rank_agreement_null,
    "rotation_share": rotation_share,
    "rank_agreement_partial": rank_agreement_partial,
    "top20_overlap": top20_overlap,
    "top20_overlap_null": top20_overlap_null,
}


# From figures to words, and from completions to one figure.

FROM_MIDDLE = {
    "uniform": -2,
    "leaning-uniform": -1,
    "middle": 0,
    "leaning-sparse": 1,
    "sparse": 2,
}


def classify(g: float, e: float, n_tokens: int, no_signal: bool) -> str | None:
    """The table of METHOD section 5, row by row."""
    if n_tokens < 2:
        return None
    if no_signal:
        return "no-signal"
    if n_tokens < 5:
        return "short"

    if g <= 0.15:
        by_gini = "uniform"
    elif g < 0.25:
        by_gini = "leaning-uniform"
    elif g <= 0.60:
        by_gini = "middle"
    elif g < 0.85:
        by_gini = "leaning-sparse"
    else:
        by_gini = "sparse"

    if e >= 0.93:
        by_effn = "uniform"
    elif e > 0.83:
        by_effn = "leaning-uniform"
    elif e >= 0.38:
        by_effn = "middle"
    elif e > 0.12:
        by_effn = "leaning-sparse"
    else:
        by_effn = "sparse"

    one, other = FROM_MIDDLE[by_gini], FROM_MIDDLE[by_effn]
    if (one < 0 < other) or (other < 0 < one):
        return "middle"
    return by_gini if abs(one) < abs(other) else by_effn


def cluster_mean(values: Vector, clusters: Sequence[object]) -> tuple[float, int]:
    """Every cluster's mean first, then the mean of those."""
    members: dict[object, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        if not math.isnan(value):
            members.setdefault(cluster, []).append(value)
    if not members:
        return NAN, 0
    means = [math.fsum(found) / len(found) for found in members.values()]
    return math.fsum(means) / len(means), len(means)
