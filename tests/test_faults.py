"""Whose fault a degenerate signal is, and how findings say so."""

from typing import Any

import pytest

from arca_diag.attribution import Held, Judged
from arca_diag.explanations import EXPLANATIONS
from arca_diag.faults import ACTIONS, credit_findings, one_in, rounding_findings
from arca_diag.findings import together
from arca_diag.results import Finding, Measurement, SettledBy, Verdict
from tests.test_causes import figure, verdict

FLOOR = {"floor_share": 0.8, "low": 0.7, "high": 0.9}
INHERITED = {"inherited_tv": 0.03, "low": 0.02, "high": 0.04}


def held(of: Verdict, **causes: dict[str, Any]) -> Judged:
    """One verdict with causes given as credit_floor={...}."""
    ids = [name.replace("_", "-") for name in causes]
    of = of.model_copy(update={"causes": ids})
    found = [
        Held(id=name, verdict=of, evidence=e) for name, e in zip(ids, causes.values(), strict=True)
    ]
    return Judged(verdicts=[of], held=found, skipped=[])


def findings(
    judged: Judged,
    credit: str = "uniform",
    *,
    void: dict[int | str, str] | None = None,
    figures: tuple[Measurement, ...] = (),
    sharpening: float = 1.0,
) -> list[Finding]:
    return credit_findings(judged, figures, credit, sharpening, void or {})


@pytest.mark.parametrize(
    ("regime", "causes", "level"),
    [
        ("sparse", {}, "warn"),
        ("sparse", {"credit_floor": FLOOR}, "error"),
        ("uniform", {"credit_inherited": INHERITED}, "error"),
        ("leaning-sparse", {"credit_inherited": INHERITED}, "warn"),
        ("leaning-uniform", {"credit_inherited": INHERITED}, "warn"),
        ("leaning-sparse", {}, "note"),
        ("middle", {"credit_inherited": INHERITED}, "warn"),
        ("mixed", {"credit_floor": FLOOR}, "warn"),
        ("inconclusive", {"numeric_noise": {"noise_share_float64": 0.3}}, "warn"),
        ("middle", {"credit_structural": {"structural_excess": 0.01}}, "note"),
        ("leaning-sparse", {"credit_structural": {"structural_excess": 0.01}}, "warn"),
        ("inconclusive", {"completions_short": {"short_share": 0.9}}, "note"),
    ],
)
def test_only_the_declared_credit_can_be_a_fault(regime, causes, level):
    judged = held(verdict(regime=regime), **causes)
    assert findings(judged, "surprisal")[0].level == level
    for other in ("uniform", "residual", "top_entropy:0.2"):
        assert {f.level for f in findings(judged, other)} == {"note"}


def test_a_signal_in_the_middle_without_a_cause_has_no_finding():
    for regime in ("middle", "mixed", "undefined"):
        assert findings(held(verdict(regime=regime)), "surprisal") == []


def test_an_unsettled_credit_is_told_and_an_unsettled_signal_is_not():
    settled_by = SettledBy(clusters_more=9, reason="too few")
    of = verdict(regime="inconclusive").model_copy(update={"settled_by": settled_by})
    (finding,) = findings(held(of), "surprisal")
    assert (finding.id, finding.level) == ("credit-inconclusive", "note")
    assert finding.evidence["clusters_more"] == 9
    assert findings(held(of), "uniform") == []


def test_the_root_cause_has_the_level_and_its_consequences_are_notes_folded_under_it():
    judged = held(verdict(), credit_floor=FLOOR, credit_inherited=INHERITED)
    root, second, regime = findings(judged, "surprisal")
    assert [f.id for f in (root, second, regime)] == [
        "credit-floor",
        "credit-inherited",
        "credit-sparse",
    ]
    assert root.cause_of == ["credit-inherited", "credit-sparse"]
    assert (root.caused_by, root.level) == (None, "error")
    for consequence in (second, regime):
        assert (consequence.caused_by, consequence.level) == ("credit-floor", "note")
        assert consequence.cause_of == []


def test_a_replay_that_is_not_the_run_makes_every_signal_a_consequence():
    judged = held(verdict(), credit_floor=FLOOR)
    found = findings(judged, "surprisal", void={60: "replay-mismatch"})
    assert {f.level for f in found} == {"note"}
    assert found[0].caused_by == "replay-mismatch"
    assert findings(judged, "surprisal", void={30: "replay-mismatch"})[0].level == "error"


def test_what_an_inert_adapter_does_to_its_signals_is_no_finding_beside_it():
    inert = held(verdict("residual", "no-signal"), adapter_inert={"residual_zero_tokens": 100})
    (found,) = findings(inert, "residual")
    assert (found.id, found.caused_by, found.level) == ("credit-absent", "adapter-inert", "note")
    assert rounding_findings(inert) == []
    fault = Finding(
        id="adapter-inert",
        level="error",
        checkpoint=60,
        signal=None,
        message="m",
        evidence={},
        action="a",
        source="s",
    )
    first, *_ = together([fault], [found])
    assert (first.id, first.cause_of) == ("adapter-inert", ["credit-absent"])


def test_from_another_adapter_one_that_changes_nothing_is_unchanged():
    inert = held(verdict("residual", "no-signal"), adapter_inert={"residual_zero_tokens": 100})
    (found,) = credit_findings(inert, (), "uniform", 1.0, {}, "adapter-unchanged")
    assert found.caused_by == "adapter-unchanged"
    noisy = held(verdict("residual"), adapter_inert={"residual_noise_share": 0.9})
    assert [f.id for f in rounding_findings(noisy, "adapter-unchanged")] == ["adapter-unchanged"]


def test_before_the_first_real_step_an_adapter_that_is_all_rounding_is_a_note():
    noisy = {"residual_noise_share": 0.93}
    start = held(verdict("residual", "uniform", checkpoint=2), adapter_inert=noisy)
    later = verdict("residual", "middle", checkpoint=60)
    both = Judged(verdicts=[*start.verdicts, later], held=start.held, skipped=[])
    assert [f.level for f in rounding_findings(both)] == ["note"]
    assert [f.level for f in rounding_findings(start)] == ["error"]


def test_completions_that_are_all_too_short_are_still_the_checkpoints_own():
    short = verdict(regime="inconclusive").model_copy(
        update={"n_completions": 0, "left_out": {"short": 40, "undefined": 0}}
    )
    judged = held(short, completions_short={"short_share": 1.0})
    both = Judged(
        verdicts=[*judged.verdicts, verdict(view="fixed-set")], held=judged.held, skipped=[]
    )
    (found,) = findings(both, "surprisal")
    assert (found.id, found.evidence["view"]) == ("completions-short", "on-policy")


def test_a_residual_that_is_all_rounding_is_a_fault_of_the_adapter_but_for_step_0():
    noisy = {"residual_noise_share": 0.93, "low": 0.8, "high": 1.0}
    for checkpoint, level in ((60, "error"), (0, "note")):
        of = verdict("residual", "uniform", checkpoint=checkpoint)
        (found,) = rounding_findings(held(of, adapter_inert=noisy))
        assert (found.id, found.level, found.signal) == ("adapter-inert", level, None)
        assert "93%" in found.message


def test_the_view_is_on_policy_where_the_checkpoint_has_completions_of_its_own():
    both = Judged(
        verdicts=[verdict(), verdict(view="fixed-set")],
        held=[],
        skipped=[],
    )
    assert [f.evidence["view"] for f in findings(both)] == ["on-policy"]
    empty = verdict(regime="undefined").model_copy(update={"n_completions": 0})
    without = Judged(verdicts=[empty, verdict(view="fixed-set")], held=[], skipped=[])
    assert [f.evidence["view"] for f in findings(without)] == ["fixed-set"]


def test_the_verdict_at_another_power_makes_no_second_finding():
    both = Judged(verdicts=[verdict(), verdict(sharpening=2.0)], held=[], skipped=[])
    assert [f.evidence["sharpening"] for f in findings(both, sharpening=2.0)] == [2.0]


def test_the_message_says_what_weighting_by_the_signal_would_do():
    ratio = figure("effn_ratio", 1 / 12, sharpening=1.0)
    (note,) = findings(held(verdict()), figures=(ratio,))
    assert note.message == (
        "if you weighted by surprisal, you would be weighting one token in 12 (sparse)"
    )
    (fault,) = findings(held(verdict()), "surprisal", figures=(ratio,))
    assert fault.message == "the run's credit, surprisal, weights one token in 12 (sparse)"
    assert one_in(0.5) == "50% of tokens"


def test_every_finding_has_something_to_do_and_an_explanation():
    ids = {e.id for e in EXPLANATIONS}
    assert set(ACTIONS) <= ids
    assert all(action.strip() for action in ACTIONS.values())


@pytest.mark.parametrize(
    ("cause", "evidence", "words"),
    [
        ("numeric-noise", {"noise_share_float32": 0.31}, "31% of the signal"),
        ("credit-floor", FLOOR, "80% of the credit is epsilon"),
        (
            "sharpening-only",
            {"sharpening": 2.0, "regime": "sparse", "regime_at_1": "middle"},
            "sparse at s = 2, middle at s = 1",
        ),
        ("credit-structural", {"structural_excess": 0.012}, "random order is 0.01"),
        ("credit-inherited", INHERITED, "97% of the credit"),
        ("credit-task-agnostic", {"by": "type", "type_explained": 0.83}, "type of a token"),
        ("completions-short", {"short_share": 0.9}, "too short"),
    ],
)
def test_every_cause_says_its_own_number(cause, evidence, words):
    (found, _) = findings(held(verdict(), **{cause.replace("-", "_"): evidence}))
    assert found.id == cause
    assert words in found.message
    assert found.message.startswith("surprisal: ")
