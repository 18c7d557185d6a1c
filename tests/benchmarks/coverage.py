"""How often a figure that a verdict uses is called past its cut, where the truth is on the cut.

    python -m tests.benchmarks.coverage [--replications N] [--seed N] [--out FILE]

For every such figure, many synthetic runs at 8, 16 and 32 prompts of 8 completions, whose true
value is exactly the cut: the chance of a call, and how often the 95% interval holds the truth.
The package's own estimators are asked. Ends with status 1 where a call is likelier than `BAR`
with completions such as runs have; harsher laws are printed beside them and told apart.

What completions look like is given by laws of several shapes. Completions of a prompt share a
Gaussian score, the law's quantile function makes values of scores, and `correlation` is that of
the scores of two completions of a prompt.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import special

from arca_diag.diagnostics.uncertainty import Estimate, cluster_mean, cluster_share
from arca_diag.thresholds import DEFAULT

SIZES = (8, 16, 32)
EACH = 8
REPLICATIONS = 10_000
#: The chance of a call that a verdict may have where the truth is on the cut (nominal: .025).
BAR = 0.04
#: Two-sided coverage outside of these is named in the table.
LEAST, MOST = 0.93, 0.97

#: Random numbers, prompts, completions of each -> values, (prompt, completion).
Draw = Callable[[np.random.Generator, int, int], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Law:
    """What completions' values look like; their true mean is the cut.

    `harsh` is what lies outside of what runs have shown: printed, and no bar is held against it.
    """

    shape: str
    correlation: float
    draw: Draw
    harsh: bool = False


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One comparison of an interval with a cut.

    Attributes:
        name: What is compared.
        cut: Id of the cut.
        side: Where the interval must lie for a call.
        laws: Those that are tried.
        estimate: The package's, from one value a completion and its prompt.
        each: Completions of a prompt.
    """

    name: str
    cut: str
    side: str
    laws: Sequence[Law]
    estimate: Callable[[np.ndarray, np.ndarray], Estimate] = cluster_mean
    each: int = EACH


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table."""

    figure: str
    cut: float
    side: str
    shape: str
    correlation: float
    prompts: int
    called: float
    coverage: float
    harsh: bool

    @property
    def remark(self) -> str:
        """What is to be said of it; empty where all is well."""
        said = []
        if self.called > BAR:
            said.append("called too often, and harsher than runs" if self.harsh else "BAR MISSED")
        if self.coverage < LEAST:
            said.append("miss: not used for verdicts at that size")
        if self.coverage > MOST:
            said.append("conservative")
        return ", ".join(said)


def correlated(
    shape: str,
    quantile: Callable[[np.ndarray], np.ndarray],
    correlations: Sequence[float] = (0.0, 0.3, 0.7),
    *,
    harsh: bool = False,
) -> list[Law]:
    """A shape at several correlations within a prompt."""

    def law(correlation: float) -> Law:
        def draw(rng: np.random.Generator, prompts: int, each: int) -> np.ndarray:
            shared = np.sqrt(correlation) * rng.standard_normal((prompts, 1))
            own = np.sqrt(1 - correlation) * rng.standard_normal((prompts, each))
            return quantile(special.ndtr(shared + own))

        return Law(shape=shape, correlation=correlation, draw=draw, harsh=harsh)

    return [law(correlation) for correlation in correlations]


def normal(mean: float, spread: float) -> list[Law]:
    """A bell: what differences of concentrations look like."""
    return correlated(f"normal, sd {spread:g}", lambda u: mean + spread * special.ndtri(u))


def beta(
    mean: float,
    spread: float,
    correlations: Sequence[float] = (0.0, 0.3, 0.7),
    *,
    harsh: bool = False,
) -> list[Law]:
    """Between 0 and 1: a bump, skewed near an end, a bathtub where the spread is large."""
    weight = mean * (1 - mean) / spread**2 - 1
    return correlated(
        f"beta, sd {spread:g}",
        lambda u: special.betaincinv(mean * weight, (1 - mean) * weight, u),
        correlations,
        harsh=harsh,
    )


def lognormal(mean: float, sigma: float) -> list[Law]:
    """Skewed to the right, without a bound; harsher than any run here."""
    return correlated(
        f"lognormal, sigma {sigma:g}",
        lambda u: mean * np.exp(sigma * special.ndtri(u) - sigma**2 / 2),
        harsh=True,
    )


def in_or_out(mean: float) -> list[Law]:
    """Completions that are in or out: prompts that are all alike, and prompts of two kinds."""
    alike = correlated("in or out", lambda u: u > 1 - mean, (0.0, 0.1, 0.3, 0.7, 0.95))
    return alike + [two_kinds(mean, few, odd) for few, odd in ((0.25, 0.05), (0.25, 0.95))]


def two_kinds(mean: float, few: float, odd: float) -> Law:
    """A share `few` of the prompts is in with chance `odd`, the others so that the mean holds."""
    others = (mean - few * odd) / (1 - few)

    def draw(rng: np.random.Generator, prompts: int, each: int) -> np.ndarray:
        chance = np.where(rng.random((prompts, 1)) < few, odd, others)
        return rng.random((prompts, each)) < chance

    shape = f"{few:.0%} of prompts in by {odd:.0%}"
    return Law(shape=shape, correlation=0.0, draw=draw, harsh=True)


def figures() -> list[Figure]:
    """Every comparison that decides a regime or a cause."""
    cut = {c.id: c.value for c in DEFAULT}
    half = in_or_out(cut["share-majority"])
    regime = {"cut": "share-majority", "laws": half, "estimate": cluster_share}
    # One completion a prompt is replayed again; its noise has a spread of a third of the mean.
    noise = _alone(beta(cut["noise-share"], 0.03) + lognormal(cut["noise-share"], 0.5))
    inert = _alone(beta(cut["inert-noise"], 0.15) + lognormal(cut["inert-noise"], 0.5))
    return [
        Figure(name="share of a class", side="above", **regime),  # type: ignore[arg-type]
        Figure(name="share of a class, mixed", side="below", **regime),  # type: ignore[arg-type]
        Figure(name="noise_share", cut="noise-share", side="above", laws=noise, each=1),
        Figure(name="noise_share, moved", cut="noise-share", side="below", laws=noise, each=1),
        Figure(name="noise_share, inert", cut="inert-noise", side="above", laws=inert, each=1),
        Figure(
            name="short_share",
            cut="short-share",
            side="above",
            laws=in_or_out(cut["short-share"]),
            estimate=cluster_share,
        ),
        Figure(
            name="floor_share",
            cut="floor-share",
            side="above",
            laws=beta(cut["floor-share"], 0.15) + beta(cut["floor-share"], 0.4),
        ),
        Figure(
            name="structural_excess",
            cut="structural-excess",
            side="below",
            laws=normal(cut["structural-excess"], 0.1),
        ),
        Figure(
            name="inherited_tv",
            cut="inherited-tv",
            side="below",
            # Runs have a spread of .17 to .35 of the mean, and correlations of .2 to .5.
            laws=beta(cut["inherited-tv"], 0.035, (0.0, 0.3, 0.5))
            + beta(cut["inherited-tv"], 0.09, harsh=True),
        ),
        Figure(
            name="type_explained",
            cut="agnostic-share",
            side="above",
            laws=beta(cut["agnostic-share"], 0.15) + normal(cut["agnostic-share"], 0.3),
        ),
    ]


def _alone(laws: Sequence[Law]) -> list[Law]:
    """Of a shape at several correlations the first: one completion is correlated with none."""
    return [law for law in laws if law.correlation == 0]


def rows(replications: int, seed: int, sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """Every figure, law and size, each with random numbers of its own.

    Causes are called by `one_sided_p`, at most .025 exactly where the limit is past the cut.
    """
    whole = [(figure, law) for figure in figures() for law in figure.laws]
    for place, ((figure, law), prompts) in enumerate(itertools.product(whole, sizes)):
        rng = np.random.default_rng([seed, place])
        cut = DEFAULT[figure.cut]
        clusters = np.repeat(np.arange(prompts), figure.each)
        called = held = 0
        for _ in range(replications):
            found = figure.estimate(law.draw(rng, prompts, figure.each).ravel(), clusters)
            called += found.low > cut if figure.side == "above" else found.high < cut
            held += found.low <= cut <= found.high
        yield Row(
            figure=figure.name,
            cut=cut,
            side=figure.side,
            shape=law.shape,
            correlation=law.correlation,
            prompts=prompts,
            called=called / replications,
            coverage=held / replications,
            harsh=law.harsh,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write the JSON, and say by the status whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--replications", type=int, default=REPLICATIONS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path(tempfile.gettempdir()) / "arca-diag-coverage.json"
    )
    asked = parser.parse_args(arguments)

    print(
        f"{asked.replications} runs a line, {EACH} completions a prompt (of noise 1); on the cut "
        f"a call may come with {BAR:.0%}\n\n{'figure':24} {'cut':>10} {'completions':28} "
        f"{'corr':>4} {'prompts':>7} {'called':>7} {'coverage':>8}"
    )
    found = []
    for row in rows(asked.replications, asked.seed):
        found.append(row)
        past = f"{'>' if row.side == 'above' else '<'} {row.cut:g}"
        print(
            f"{row.figure:24} {past:>10} {row.shape:28} {row.correlation:>4g} {row.prompts:>7} "
            f"{row.called:>7.4f} {row.coverage:>8.4f}  {row.remark}".rstrip(),
            flush=True,
        )
    missed = [row for row in found if row.called > BAR and not row.harsh]
    harsh = [row for row in found if row.called > BAR and row.harsh]
    asked.out.write_text(
        json.dumps(
            {
                "replications": asked.replications,
                "seed": asked.seed,
                "bar": BAR,
                "missed": len(missed),
                "missed_by_harsher_laws": len(harsh),
                "rows": [asdict(row) | {"remark": row.remark} for row in found],
            },
            indent=2,
        )
        + "\n"
    )
    print(
        f"\n{len(missed)} of {sum(not row.harsh for row in found)} lines miss the bar; of those "
        f"harsher than runs {len(harsh)} of {sum(row.harsh for row in found)} would; "
        f"figures in {asked.out}"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
