"""The trend on a terminal: every checkpoint, one scale, and marks that the stream can carry."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arca_diag.report.console import WIDTH, print_report
from arca_diag.report.sparkline import Sparkline, can_show, sparkline, squeezed
from arca_diag.results import Report
from tests.test_console import made, with_verdicts
from tests.test_results import finding, measurement

SHARES = st.one_of(st.none(), st.floats(0, 1))


def trended(values: dict[int | str, float | None], **given: object) -> Report:
    """A report with G^ of surprisal at these checkpoints, and of no other signal."""
    figures = [
        measurement(
            checkpoint=step,
            view="fixed-set",
            name=name,
            value=value,
            reason="no credit" if value is None else None,
        )
        for step, value in values.items()
        for name in ("gini_corrected", "effn_corrected")
    ]
    return with_verdicts([]).model_copy(update={"measurements": figures, **given})


def shown(report: Report, width: int = 80, encoding: str = "utf-8") -> list[str]:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace")
    print_report(Console(file=file, width=width), report, Path("out"), "next")
    file.seek(0)
    return [line.rstrip() for line in file.read().splitlines()]


def row(lines: list[str], name: str = "surprisal") -> str:
    return next(line for line in lines if line.startswith(f"{name}  "))


class TestMarks:
    def test_the_scale_goes_from_0_to_1_in_eight_equal_steps(self) -> None:
        eighths = [n / 8 for n in range(8)]
        assert sparkline(eighths) == "▁▂▃▄▅▆▇█"
        assert sparkline([1.0, 0.124, 0.126]) == "█▁▂"

    def test_what_is_undefined_is_a_gap_and_rounding_past_the_ends_is_none(self) -> None:
        assert sparkline([None, -1e-17, 1 + 1e-12]) == " ▁█"

    @given(st.lists(SHARES, max_size=60), st.integers(1, 70))
    def test_squeezing_keeps_order_range_and_every_value(self, values, places: int) -> None:
        found = squeezed(values, places)
        assert len(found) == min(len(values), places)
        defined = [v for v in values if v is not None]
        kept = [v for v in found if v is not None]
        assert bool(kept) == bool(defined)
        assert all(min(defined) - 1e-9 <= v <= max(defined) + 1e-9 for v in kept)
        if places >= len(values):
            assert found == values

    def test_of_several_the_mean_of_the_defined_stands(self) -> None:
        assert squeezed([0.0, 0.5, None, 1.0, None, None], 3) == [0.25, 1.0, None]

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "no such encoding"])
    def test_a_stream_that_cannot_carry_blocks_gets_tenths(self, encoding: str) -> None:
        assert not can_show(encoding)
        console = Console(file=io.StringIO(), width=20)
        options = console.options.update()
        options.encoding = encoding
        (text,) = Sparkline((0.0, 0.55, None, 1.0)).__rich_console__(console, options)
        assert text.plain == "05 9"


class TestInTheTable:
    def test_every_checkpoint_has_its_mark_and_first_and_last_their_figures(self) -> None:
        lines = shown(trended({n: n / 8 for n in range(8)}))
        assert row(lines).endswith("▁▂▃▄▅▆▇█")
        assert row(lines).split()[1].startswith(".00/")
        assert row(lines).split()[-2].startswith(".88/")
        assert "  trend: G^ at all 8 checkpoints, from 0 (low) to 1 (full)" in lines

    def test_a_gap_stays_a_gap(self) -> None:
        assert row(shown(trended({1: 0.1, 2: None, 3: 0.9}))).endswith("▁ █")

    def test_two_checkpoints_have_no_trend(self) -> None:
        assert not any("trend" in line for line in shown(trended({1: 0.1, 2: 0.9})))

    def test_ascii_gets_digits_and_says_so(self) -> None:
        lines = shown(trended({1: 0.1, 2: 0.55, 3: 1.0}), encoding="ascii")
        assert row(lines).endswith("159")
        assert "  trend: G^ at all 3 checkpoints, in tenths" in lines
        assert all(line.isascii() for line in lines)

    def test_of_very_many_a_mark_is_a_mean_and_that_is_said(self) -> None:
        lines = shown(trended({n: n / 200 for n in range(200)}))
        assert all(len(line) <= WIDTH for line in lines)
        told = next(line for line in lines if "trend: G^ at all 200" in line)
        assert "a mark is the mean of" in " ".join([told, lines[lines.index(told) + 1]])
        marks = row(lines).split()[-1]
        assert 16 <= len(marks) < 40
        assert marks == "".join(sorted(marks))

    def test_long_names_leave_no_room_and_that_is_all(self) -> None:
        names = {f"a-checkpoint-with-a-long-name-{n}": 0.5 for n in range(5)}
        lines = shown(trended(names), 60)
        assert not any("trend" in line for line in lines)
        assert any("2 of 5 checkpoints shown" in line for line in lines)

    def test_of_long_names_the_ends_stand_beside_the_trend(self) -> None:
        names = {f"a-checkpoint-with-a-long-name-{n}": 0.5 for n in range(5)}
        (head,) = (line for line in shown(trended(names)) if "trend" in line and "e^" in line)
        assert head.split()[-4:] == ["..-long-name-0", "..-long-name-2", "..-long-name-4", "trend"]


class TestWidth:
    @pytest.mark.parametrize("width", [60, 80, 100, 250])
    @pytest.mark.parametrize("count", [1, 3, 6, 50])
    def test_nothing_is_wider_than_80_columns_or_the_terminal(self, width, count) -> None:
        lines = shown(trended({100 * n: 0.5 for n in range(count)}), width)
        assert max(map(len, lines)) <= min(width, 80)

    def test_faults_stand_between_the_headline_and_all_else(self) -> None:
        faults = [finding(level="error", id="adapter-broken", message="it holds NaN")]
        lines = shown(made(surprisal=("sparse",) * 3).model_copy(update={"findings": faults}))
        place = lines.index("error [adapter-broken] at step 0: it holds NaN")
        assert place < 6
        assert all(not line.startswith("Run ") for line in lines[:place])


def run_in_terminal(code: str, **env: str) -> str:
    """What Python prints to a terminal of 80 columns."""
    leader, follower = pty.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=environment | {"TERM": "xterm-256color", "COLUMNS": "80", **env},
    )
    os.close(follower)
    read = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        read += part
    assert process.wait() == 0
    os.close(leader)
    return read.decode("utf-8")


PRINTED = (
    "from pathlib import Path\n"
    "from arca_diag.report.console import print_report\n"
    "from arca_diag.terminal import stdout\n"
    "from tests.report.test_sparkline import trended, finding\n"
    "print_report(stdout(), trended({1: .1, 2: .5, 3: .9}, findings=[finding()]), Path('o'), 'n')\n"
)


class TestStreams:
    def test_a_terminal_gets_colour_unless_it_says_no(self) -> None:
        assert "\x1b[1;33m" in run_in_terminal(PRINTED)
        assert "\x1b[1;33m" not in run_in_terminal(PRINTED, NO_COLOR="1")

    def test_a_dumb_terminal_gets_no_escape_code(self) -> None:
        found = run_in_terminal(PRINTED, TERM="dumb")
        assert "trend" in found
        assert "\x1b" not in found

    def test_a_pipe_gets_no_escape_code(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "FORCE_COLOR"}
        done = subprocess.run(
            [sys.executable, "-c", PRINTED],
            capture_output=True,
            check=True,
            env=environment | {"TERM": "xterm-256color"},
        )
        assert b"trend" in done.stdout
        assert b"\x1b" not in done.stdout
