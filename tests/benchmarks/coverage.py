"""How often a figure that a verdict uses is called past its cut, where the truth is on the cut.

    python -m tests.benchmarks.coverage [--replications N] [--seed N] [--out FILE]

For every such figure, many synthetic runs at 8, 16 and 32 prompts of 8 completions, whose true
value is exactly the cut: the chance of a call, and how often the 95% interval holds the truth.
The package's own estimators are asked, and a call is what the package calls: a p-value as small
as that figure's has to be, from as many prompts on as it needs. Ends with status 1 where a call
is likelier than `BAR`; laws that nothing can guard against are printed and told apart.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from arca_diag.diagnostics.multiplicity import one_sided_p
from arca_diag.thresholds import DEFAULT
from tests.benchmarks.comparisons import EACH, FEWER, REPLICATIONS, figures

SIZES = (8, 16, 32)
#: The chance of a call that a verdict may have where the truth is on the cut (nominal: .025).
BAR = 0.04
#: Two-sided coverage outside of these is named in the table.
LEAST, MOST = 0.93, 0.97


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table.

    Attributes:
        called: Chance of a call, were it made at that size.
        coverage: How often the 95% interval holds the truth.
        past: How often it lies past the truth, on the side of a call.
        judged: Whether calls are made at that size.
        unguarded: Why no bar is held against it, if none is.
    """

    figure: str
    cut: float
    side: str
    shape: str
    correlation: float
    prompts: int
    replications: int
    called: float
    coverage: float
    past: float
    judged: bool
    unguarded: str | None

    @property
    def barred(self) -> bool:
        """Whether the bar is held against it."""
        return self.judged and self.unguarded is None

    @property
    def remark(self) -> str:
        """What is to be said of it; empty where all is well."""
        said = []
        if not self.judged:
            said.append("not called at that size")
        elif self.called > BAR:
            said.append(self.unguarded or "BAR MISSED")
        if self.coverage < LEAST:
            said.append("miss" if self.past > BAR else "miss, where nothing is called")
        if self.coverage > MOST:
            said.append("conservative")
        return ", ".join(said)


def rows(replications: int, seed: int, sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """Every figure, law and size, each with random numbers of its own.

    Of a figure that needs more prompts than others, the fewest that it is called at come too.
    """
    whole = [
        (figure, law, prompts)
        for figure in figures()
        for law in figure.laws
        for prompts in sorted({*sizes, max(min(sizes), int(figure.least))})
    ]
    for place, (figure, law, prompts) in enumerate(whole):
        rng = np.random.default_rng([seed, place])
        cut = DEFAULT[figure.cut]
        n = min(replications, figure.replications)
        called = held = past = 0
        for _ in range(n):
            found = figure.estimate(law.draw(rng, prompts, figure.each))
            limits = found.value, found.low, found.high
            p = one_sided_p(*limits, found.n_clusters, cut, figure.side)
            called += p <= figure.alpha
            past += found.low > cut if figure.side == "above" else found.high < cut
            held += found.low <= cut <= found.high
        yield Row(
            figure=figure.name,
            cut=cut,
            side=figure.side,
            shape=law.shape,
            correlation=law.correlation,
            prompts=prompts,
            replications=n,
            called=called / n,
            coverage=held / n,
            past=past / n,
            judged=prompts >= figure.least,
            unguarded=law.unguarded,
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
        f"{asked.replications} runs a line ({min(FEWER, asked.replications)} of type_explained), "
        f"{EACH} completions a prompt (of noise 1, of groups as named); on the cut a call may come "
        f"with {BAR:.0%}\n\n"
        f"{'figure':25} {'cut':>10} {'completions':28} {'corr':>4} {'prompts':>7} {'called':>7} "
        f"{'coverage':>8}"
    )
    found = []
    for row in rows(asked.replications, asked.seed):
        found.append(row)
        past = f"{'>' if row.side == 'above' else '<'} {row.cut:g}"
        print(
            f"{row.figure:25} {past:>10} {row.shape:28} {row.correlation:>4g} {row.prompts:>7} "
            f"{row.called:>7.4f} {row.coverage:>8.4f}  {row.remark}".rstrip(),
            flush=True,
        )
    missed = [row for row in found if row.barred and row.called > BAR]
    unguarded = [row for row in found if row.judged and row.unguarded and row.called > BAR]
    asked.out.write_text(
        json.dumps(
            {
                "replications": asked.replications,
                "seed": asked.seed,
                "bar": BAR,
                "missed": len(missed),
                "missed_unguarded": len(unguarded),
                "rows": [asdict(row) | {"remark": row.remark} for row in found],
            },
            indent=2,
        )
        + "\n"
    )
    print(
        f"\n{len(missed)} of {sum(row.barred for row in found)} lines miss the bar; of those "
        f"that nothing guards against {len(unguarded)} of "
        f"{sum(row.judged and row.unguarded is not None for row in found)} would; "
        f"figures in {asked.out}"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
