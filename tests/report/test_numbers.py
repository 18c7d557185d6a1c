"""The one formatter: what it writes reads back as the figure, to three digits."""

import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arca_diag.report.numbers import (
    figure,
    p_value,
    percent,
    percent_with_limits,
    two_decimals,
    unit_share,
    with_limits,
)


@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
def test_a_figure_reads_back_to_three_significant_digits(value: float) -> None:
    read = Decimal(figure(value).replace(",", ""))
    error = abs(read - Decimal(value))
    # half of the third digit's place, counted in decimal and not by the code's own format
    place = Decimal(10) ** (Decimal(value).adjusted() - 2) if value else Decimal(0)
    assert error <= place / 2 * (1 + Decimal("1e-15"))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.92345, "0.923"),
        (1e-8, "1e-08"),
        (12_345.0, "12,300"),
        (-0.0, "0"),
        (1999.6, "2,000"),
        (999.6, "1,000"),
        (2.5e9, "2.5e+09"),
    ],
)
def test_a_figure_looks_as_people_write_it(value: float, told: str) -> None:
    assert figure(value) == told


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_undefined_says_why_and_is_never_a_number(value: float | None) -> None:
    assert figure(value, "3 prompts", unit="nats") == "n/a: 3 prompts"
    assert figure(value) == "n/a"


def test_units_and_limits_stand_beside() -> None:
    assert figure(1.5, unit="nats") == "1.5 nats"
    assert with_limits(0.5, 0.25, 0.75, unit="nats") == "0.5 (0.25 to 0.75) nats"
    assert with_limits(0.5, None, 0.75) == "0.5"
    assert with_limits(None, 0.1, 0.2, "no prompt") == "n/a: no prompt"


def test_shares() -> None:
    assert percent(0.931) == "93%"
    assert percent(None, "no prompt") == "n/a: no prompt"
    assert percent_with_limits(0.931, 0.87, 0.994) == "93% (87 to 99)"
    assert percent_with_limits(0.931, None, 0.99) == "93%"
    assert unit_share(0.931) == ".93"
    assert unit_share(0.999) == "1.00"
    assert unit_share(None) == "n/a"
    assert unit_share(0.0) == ".00"


@pytest.mark.parametrize(
    ("value", "told"), [(0.0049, ".005"), (0.0012, ".001"), (-0.0012, "-.001"), (2e-9, "2e-09")]
)
def test_a_share_that_is_something_is_not_shown_as_nothing(value: float, told: str) -> None:
    assert unit_share(value) == told
    assert two_decimals(value).endswith(".00")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1.0, "1.00"), (0.5, ".50"), (0.0499, ".050"), (0.0012, ".0012"), (0.00034, ".00034"),
        (9e-5, "<.0001"), (0.0, "<.0001"), (None, ""),
    ],
)  # fmt: skip
def test_p_values(value: float | None, told: str) -> None:
    assert p_value(value) == told
