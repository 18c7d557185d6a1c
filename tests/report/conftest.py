"""One whole result and its pictures, for all tests that read and change nothing in them."""

import pytest

from arca_diag.report.charts import draw_pictures
from arca_diag.report.picture import Picture
from arca_diag.results import Report
from arca_diag.tables import Tables
from tests.report.drawn import result


@pytest.fixture(scope="session")
def whole() -> tuple[Report, Tables]:
    return result()


@pytest.fixture(scope="session")
def pictures(whole: tuple[Report, Tables]) -> dict[str, Picture]:
    return {picture.id: picture for picture in draw_pictures(*whole)}
