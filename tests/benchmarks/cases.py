"""Every population that the judge is asked about, and the doses of its curves."""

from collections.abc import Callable

from arca_diag.signals import SIGNAL_NAMES
from tests.benchmarks import plants
from tests.benchmarks.planted import Plant, Recipe
from tests.benchmarks.replayed import Weakened

_SOUND = ("surprisal", "divergence", "residual", "entropy", "kl_exact", "relative_residual")


def _in_three(plant: Callable[[str], Plant]) -> tuple[Plant, ...]:
    """A plant in three signals that have nothing to do with one another."""
    return tuple(plant(signal) for signal in ("surprisal", "kl_exact", "residual"))


_FLOORED = _in_three(lambda signal: plants.floored(signal, 0.85))
_ONE_HOT = _in_three(plants.one_hot)

SYNTHETIC: tuple[Recipe, ...] = (
    Recipe(name="healthy", times=2, healthy=_SOUND),
    Recipe(name="entropy falls slowly", times=2, plants=(plants.falling(),), healthy=_SOUND),
    Recipe(name="entropy climbs slowly", times=2, plants=(plants.climbing(1.0),), healthy=_SOUND),
    Recipe(name="few groups", plants=_ONE_HOT, prompts=6),
    Recipe(name="eight groups", plants=_ONE_HOT, prompts=8),
    Recipe(name="zero adapter", plants=(plants.inert(),)),
    Recipe(name="one-hot", plants=_ONE_HOT),
    Recipe(name="flat", plants=_in_three(plants.flat)),
    Recipe(name="floor", times=2, plants=_FLOORED),
    Recipe(
        name="inherited",
        times=2,
        plants=(plants.inherited("surprisal", 0.1), plants.inherited("entropy", 0.1)),
    ),
    Recipe(name="punctuation", times=2, plants=_in_three(lambda s: plants.by_type(s, 0.2))),
    Recipe(name="position", times=2, plants=_in_three(lambda s: plants.by_place(s, 0.2))),
    Recipe(name="sharpening", times=2, sharpening=2.0),
    Recipe(name="short", lengths=plants.short(0.9)),
    Recipe(name="rounding", rounding=dict.fromkeys(("surprisal", "entropy", "divergence"), 0.4)),
    Recipe(name="nothing but rounding", rounding=dict.fromkeys(SIGNAL_NAMES, 1.0)),
    Recipe(name="mixed doses", plants=tuple(plants.in_prompts(0.5, p) for p in _ONE_HOT)),
    Recipe(
        name="floor and inherited",
        times=2,
        plants=(
            plants.inherited("surprisal", 0.1),
            plants.floored("surprisal", 0.85),
            plants.floored("ref_surprisal", 0.85),
        ),
    ),
    Recipe(
        name="inherited punctuation",
        times=2,
        plants=(plants.by_type("ref_surprisal", 0.2), plants.inherited("surprisal", 0.1)),
    ),
    Recipe(name="short and floor", plants=_FLOORED, lengths=plants.short(0.9)),
    Recipe(
        name="rounding and floor",
        times=2,
        plants=_FLOORED,
        rounding=dict.fromkeys(("surprisal", "kl_exact"), 0.4),
    ),
)

REPLAYED: tuple[Weakened, ...] = (
    Weakened(step=2, times=2),
    Weakened(step=40),
    Weakened(step=100, stale=True),
    Weakened(step=60, sharpening=2.0),
    *(Weakened(step=60, scale=scale) for scale in (0.0, 1e-3, 1e-5, 1e-7)),
    *(Weakened(step=60, scale=scale, dtype="bfloat16") for scale in (1.0, 1e-3, 1e-5, 0.0)),
)


def _curve(
    cause: str, signal: str, doses: tuple[float, ...], recipe: Callable[[float], Recipe]
) -> tuple[Recipe, ...]:
    """A recipe for every dose."""
    found = []
    for dose in doses:
        made = recipe(dose)
        found.append(
            Recipe(
                name=f"{cause} {dose:g}",
                plants=made.plants,
                lengths=made.lengths,
                rounding=made.rounding,
                curve=(cause, signal),
                times=0.5,
            )
        )
    return tuple(found)


CURVES: tuple[Recipe, ...] = (
    *_curve(
        "numeric-noise",
        "divergence",
        (0.03, 0.07, 0.1, 0.14, 0.2, 0.3),
        lambda dose: Recipe(name="", rounding={"divergence": dose}),
    ),
    *_curve(
        "completions-short",
        "surprisal",
        (0.2, 0.4, 0.5, 0.55, 0.6, 0.7),
        lambda dose: Recipe(name="", lengths=plants.short(dose)),
    ),
    *_curve(
        "credit-floor",
        "residual",
        (0.3, 0.45, 0.5, 0.54, 0.6, 0.7),
        lambda dose: Recipe(name="", plants=(plants.floored("residual", dose),)),
    ),
    *_curve(
        "credit-inherited",
        "surprisal",
        (0.15, 0.2, 0.23, 0.26, 0.3, 0.4),
        lambda dose: Recipe(name="", plants=(plants.inherited("surprisal", dose),)),
    ),
    *_curve(
        "credit-structural",
        "entropy_reduction",
        (0.0, 0.1, 0.2, 0.3, 0.4, 0.6),
        lambda dose: Recipe(name="", plants=(plants.climbing(dose),)),
    ),
    *_curve(
        "credit-task-agnostic",
        "residual",
        (0.3, 0.6, 0.9, 1.2, 1.5, 2.0),
        lambda dose: Recipe(name="", plants=(plants.by_type("residual", dose),)),
    ),
)
