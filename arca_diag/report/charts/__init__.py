"""Pictures of a result: `PICTURES` is the list of them all, in reading order.

To add one: a function from `Scene` to pictures in a file of its own, an entry here, a test.
"""

from collections.abc import Callable, Iterable, Iterator

from arca_diag.report.charts.agreement import draw_agreement
from arca_diag.report.charts.classes import draw_classes
from arca_diag.report.charts.ink import style
from arca_diag.report.charts.layers import draw_layers
from arca_diag.report.charts.lorenz import draw_lorenz
from arca_diag.report.charts.positions import draw_positions
from arca_diag.report.charts.regime_map import draw_regime_map
from arca_diag.report.charts.residual import draw_residual
from arca_diag.report.charts.rewards import draw_rewards
from arca_diag.report.charts.scene import Scene
from arca_diag.report.charts.token_types import draw_types
from arca_diag.report.charts.trend import draw_trend
from arca_diag.report.picture import Picture
from arca_diag.results import Report
from arca_diag.tables import Tables

#: Each yields its pictures, mostly one; none where there is nothing to draw.
PICTURES: tuple[Callable[[Scene], Iterator[Picture]], ...] = (
    draw_trend,
    draw_regime_map,
    draw_lorenz,
    draw_residual,
    draw_agreement,
    draw_classes,
    draw_positions,
    draw_types,
    draw_layers,
    draw_rewards,
)


def draw_pictures(report: Report, frames: Tables) -> tuple[Picture, ...]:
    """The pictures of a result that have something to draw, in reading order.

    Raises:
        ValueError: A picture does not say in its caption which view it is of, or has the id of
            another.
    """
    scene = Scene(report=report, frames=frames)
    with style():
        pictures = tuple(picture for draw in PICTURES for picture in draw(scene))
    for picture in pictures:
        if not all(view in picture.caption for view in picture.view.split(" and ")):
            raise ValueError(f"{picture.id}: the caption does not name the view {picture.view}")
    if len({picture.id for picture in pictures}) < len(pictures):
        raise ValueError(f"two pictures have one id: {[picture.id for picture in pictures]}")
    return pictures


def plot_files(pictures: Iterable[Picture]) -> dict[str, bytes]:
    """The pictures as files of the result folder."""
    return {f"plots/{picture.id}.svg": picture.svg.encode() for picture in pictures}
