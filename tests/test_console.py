"""What a scan prints of its verdicts: how sure, since when, why; in 80 columns."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from arca_diag.report.console import print_report
from arca_diag.report.words import finding_lines, places
from arca_diag.results import Report, Side
from arca_diag.signals import SIGNAL_NAMES
from tests.test_results import finding, measurement, report, verdict

STEPS = (2, 30, 60)


def shown(made: Report, **options: Any) -> str:
    printed = io.StringIO()
    print_report(Console(file=printed, width=80, **options), made, Path("out"), "next")
    return printed.getvalue()


def lines(made: Report) -> list[str]:
    return [line.rstrip() for line in shown(made).splitlines()]


def side(regime: str, value: float, low: float | None, high: float | None) -> Side:
    return Side(regime=regime, value=value, low=low, high=high)


def made(**regimes: tuple[str, ...]) -> Report:
    """Signal -> its regime at each of STEPS, on-policy."""
    verdicts = [
        verdict(
            checkpoint=step,
            signal=signal,
            regime=regime,
            without_ends=regime,
            causes=[],
            side=side("sparse", 0.9, 0.8, 1.0),
            settled_by=None,
        )
        for signal, of in regimes.items()
        for step, regime in zip(STEPS, of, strict=True)
    ]
    return with_verdicts(verdicts)


def with_verdicts(verdicts: list[Any]) -> Report:
    options = report().provenance.options | OPTIONS
    provenance = report().provenance.model_copy(
        update={"options": options, "base": {"name": "a base"}}
    )
    figures = [
        measurement(checkpoint=s, view="on-policy", name="gini_corrected", sharpening=1.0)
        for s in STEPS
    ]
    return report(provenance=provenance, verdicts=verdicts, measurements=figures, findings=[])


OPTIONS = {"credit": "uniform", "credit_source": "stock", "sharpening": 1.0, "epsilon": 1e-8}


class TestHowSure:
    def test_a_verdict_has_its_share_of_completions_with_limits(self):
        one = verdict(regime="sparse", without_ends="sparse", causes=[], settled_by=None)
        one = one.model_copy(update={"side": side("sparse", 0.914, 0.8449, 0.978)})
        assert "surprisal           sparse  91% (84 to 98)    no cause found" in lines(
            with_verdicts([one])
        )

    def test_one_prompt_has_a_share_and_no_limits(self):
        one = verdict(side=side("leaning-sparse", 1.0, None, None), without_ends="inconclusive")
        found = [line for line in lines(with_verdicts([one])) if line.startswith("surprisal ")]
        assert any("inconclusive  100%  " in line for line in found)
        assert "(" not in found[-1]

    def test_what_is_not_settled_says_where_most_are(self):
        one = verdict(side=side("leaning-sparse", 0.6, 0.4, 0.8), causes=[], without_ends="middle")
        text = " ".join(shown(with_verdicts([one])).split())
        assert "inconclusive 60% (40 to 80) most: leaning-sparse; middle without first" in text

    def test_what_rounding_hides_shows_no_share(self):
        one = verdict(side=None, causes=["numeric-noise"], without_ends="inconclusive")
        found = [line for line in lines(with_verdicts([one])) if line.startswith("surprisal ")]
        assert found[-1].split() == ["surprisal", "inconclusive", "numeric-noise"]

    def test_that_intervals_stand_for_themselves_is_said(self):
        text = " ".join(shown(made(surprisal=("sparse",) * 3)).split())
        assert "each signal and checkpoint by itself, so of many a few are off" in text


class TestSinceWhen:
    def test_a_signal_whose_regime_changed_has_a_line_over_the_checkpoints(self):
        found = lines(
            made(
                surprisal=("inconclusive", "sparse", "sparse"),
                residual=("uniform", "middle", "leaning-uniform"),
                entropy=("middle",) * 3,
            )
        )
        assert "surprisal   step 2 inconclusive -> 30 to 60 sparse" in found
        assert "residual    step 2 uniform -> 30 middle -> 60 leaning-uniform" in found
        assert "the others  the same at every checkpoint" in found

    def test_where_none_changed_one_line_says_so(self):
        found = lines(made(surprisal=("sparse",) * 3, entropy=("middle",) * 3))
        assert "every signal  the same at every checkpoint" in found

    def test_a_single_checkpoint_has_no_before(self):
        assert "over the checkpoints" not in shown(with_verdicts([verdict()]))

    def test_of_very_many_changes_the_first_and_the_last_are_shown(self):
        verdicts = [
            verdict(checkpoint=n, regime=("middle", "sparse")[n % 2], settled_by=None, causes=[])
            for n in range(40)
        ]
        text = " ".join(shown(with_verdicts(verdicts)).split())
        assert "step 0 middle -> 1 sparse -> 2 middle -> (34 more, in report.json)" in text
        assert "-> 37 sparse -> 38 middle -> 39 sparse" in text

    def test_causes_of_earlier_checkpoints_are_one_line_a_stretch(self):
        def of(step: int, signal: str, causes: list[str]) -> Any:
            return verdict(checkpoint=step, signal=signal, causes=causes)

        held = {1: ["credit-floor"], 2: ["credit-floor"], 3: [], 4: ["credit-floor"], 5: []}
        verdicts = [of(n, s, c) for n, c in held.items() for s in ("surprisal", "entropy")]
        found = lines(with_verdicts(verdicts))
        assert "  credit-floor at steps 1 to 2: surprisal, entropy" in found
        assert "  credit-floor at step 4: surprisal, entropy" in found


class TestFindings:
    def test_words_say_whose_figures_they_are_and_what_follows(self):
        same = {"id": "adapter-inert", "level": "error", "action": "mend"}
        told = finding_lines(
            [
                finding(**same, checkpoint=2, message="noise is 60%", cause_of=["credit-uniform"]),
                finding(**same, checkpoint=30, message="noise is 70%", cause_of=["credit-floor"]),
            ]
        )
        assert told[0].plain == (
            "error [adapter-inert] at step 2, step 30: noise is 70% (figures of step 30); "
            "from this follow: credit-uniform, credit-floor"
        )

    def test_of_many_checkpoints_the_first_and_the_last_are_named(self) -> None:
        steps = range(5, 205, 5)
        same = [finding(checkpoint=step, message="noise") for step in steps]
        assert "at steps 5, 10, 15, ... 200 (40 steps): noise" in finding_lines(same)[0].plain
        assert places(["a", 2, *"bcdefg"]) == "a, 2, b, ... g (8 checkpoints)"
        assert places([2, 15]) == "step 2, step 15"


@pytest.mark.parametrize("width", [40, 60, 71, 80])
def test_a_narrow_terminal_loses_no_verdict(width: int) -> None:
    ways = dict.fromkeys(SIGNAL_NAMES, ("inconclusive", "leaning-sparse", "leaning-uniform"))
    printed = io.StringIO()
    print_report(Console(file=printed, width=width), made(**ways), Path("out"), "next")
    told = printed.getvalue()
    assert max(len(line.rstrip()) for line in told.splitlines()) <= width
    verdicts = told.partition("verdict at step 60")[2].partition("over the checkpoints")[0]
    for signal in SIGNAL_NAMES:
        assert f"{signal}: leaning-uniform" in verdicts or f"{signal} " in verdicts
    assert verdicts.count("leaning-uniform") == len(SIGNAL_NAMES)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}])
def test_colour_is_off_where_it_is_not_wanted(env, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    faults = made(surprisal=("sparse",) * 3).model_copy(update={"findings": [finding()]})
    text = shown(faults, force_terminal=True)
    assert "\x1b[1m" in text
    assert "\x1b[33m" not in text
    assert "\x1b[1;33m" not in text


def test_what_is_piped_has_no_blanks_at_the_end_of_a_line():
    for line in shown(made(surprisal=("sparse",) * 3)).splitlines():
        assert line == line.rstrip()


def test_without_a_verdict_no_fault_is_not_said():
    assert "No fault was found" not in shown(with_verdicts([]))
    assert "No fault was found" in shown(made(surprisal=("middle",) * 3))


def test_long_names_of_checkpoints_leave_the_signals_their_names():
    name = "a-very-long-name-of-a-checkpoint-folder-"
    one = made(surprisal=("middle",) * 3)
    figures = [
        m.model_copy(update={"checkpoint": f"{name}{m.checkpoint}"}) for m in one.measurements
    ]
    text = shown(one.model_copy(update={"measurements": figures}))
    assert "relative_residual" in text
    assert "nt-folder-60" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_nothing_is_wider_than_the_terminal_and_the_headline_comes_first():
    names = ("surprisal", "entropy_reduction", "relative_residual", "divergence")
    way = ("leaning-uniform", "inconclusive", "leaning-sparse")
    one = made(**dict.fromkeys(names, way))
    found = lines(one)
    assert all(len(line) <= 80 for line in found)
    assert found[0].startswith("At step 60 (on-policy, 7 prompts)")
