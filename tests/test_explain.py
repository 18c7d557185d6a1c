"""`explain` says of every finding what the code does, and no more than the code has."""

import ast
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from arca_diag import explanations
from arca_diag.cli import app
from arca_diag.errors import ArcaError
from arca_diag.explanations import CLASS_CUTS, EXPLANATIONS, explain, used_by
from arca_diag.explanations.terms import TERMS
from arca_diag.faults import ACTIONS
from arca_diag.gate.names import CHECK_IDS
from arca_diag.report.explanation import (
    print_explanation,
    print_list,
    render_explanation,
    render_term,
)
from arca_diag.report.words import finding_lines
from arca_diag.results import Finding
from arca_diag.thresholds import (
    ADAPTER_THRESHOLDS,
    DEFAULT,
    FIDELITY_THRESHOLDS,
    LOG_THRESHOLDS,
    REGIME_THRESHOLDS,
)
from arca_diag.verdict import CLASSES, INCONCLUSIVE, MIXED, REGIMES, SHORT, UNDEFINED
from tests.test_docs import RULES, finding_ids

PACKAGE = Path(__file__).parents[1] / "arca_diag"
LEVELS = ("error", "warn", "note")
IDS = [e.id for e in EXPLANATIONS]
WORDS = [t.id for t in TERMS]
CUTS = tuple(DEFAULT)


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, its output piped."""
    return subprocess.run(
        [sys.executable, "-m", "arca_diag", "explain", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={k: v for k, v in os.environ.items() if k != "COLUMNS"} | env,
    )


def words(text: str) -> str:
    """The text with every run of white space as one space."""
    return " ".join(text.split())


def test_every_finding_is_explained_once_and_nothing_else_is() -> None:
    assert len(IDS) == len(set(IDS))
    assert set(IDS) == finding_ids()


def levels_in_the_source() -> dict[frozenset[str], set[str]]:
    """The ids that one call can give -> the levels that it can give them, read from the source.

    A level that is a variable can be any that its function assigns to it.
    """
    found: dict[frozenset[str], set[str]] = {}
    for name in RULES:
        tree = ast.parse((PACKAGE / name).read_text("utf-8"))
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            for call in (n for n in ast.walk(function) if isinstance(n, ast.Call)):
                called = getattr(call.func, "id", "")
                given = {k.arg: k.value for k in call.keywords}
                if called == "_finding":
                    identity, level = call.args[:2]
                elif called == "Finding" and isinstance(given["level"], ast.IfExp):
                    identity, level = given["id"], given["level"]
                else:
                    continue
                ids = frozenset(strings(identity)) - set(LEVELS)
                source: ast.AST = function if isinstance(level, ast.Name) else level
                found.setdefault(ids, set()).update(set(strings(source)) & set(LEVELS))
    return found


def strings(node: ast.AST) -> list[str]:
    return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) is str]


def test_the_levels_are_those_that_the_rules_give() -> None:
    found = levels_in_the_source()
    # A signal's finding has any level, by whether it is the credit: tests/test_faults.py.
    found |= {frozenset({name}): set(LEVELS) for name in ACTIONS if name != "credit-inconclusive"}
    found |= {frozenset({"credit-inconclusive"}): {"note"}}
    assert frozenset().union(*found) == set(IDS)
    by_id = {e.id: e.levels for e in EXPLANATIONS}
    for ids, levels in found.items():
        assert {level for i in ids for level in by_id[i]} == levels, ids
    for explanation in EXPLANATIONS:
        order = [LEVELS.index(level) for level in explanation.levels]
        assert order == sorted(set(order)), explanation.id


def test_every_cut_in_the_code_decides_a_finding_or_a_class_and_no_other_is_named() -> None:
    named = {name for e in EXPLANATIONS for name in e.thresholds} | set(CLASS_CUTS)
    assert named == {cut.id for cut in CUTS}
    assert set(CLASS_CUTS) == {cut.id for cut in REGIME_THRESHOLDS}


def test_a_cut_of_a_class_names_that_class() -> None:
    for name, decides in CLASS_CUTS.items():
        side, _, rest = name.partition("-")
        named = set(re.findall(r"`([a-z-]+)`", decides))
        if side in ("gini", "effn"):
            assert rest in CLASSES
            assert named == {rest}
        if side == "tokens":
            assert named == {SHORT}


@pytest.mark.parametrize(
    ("module", "thresholds"),
    [
        ("lint.py", ADAPTER_THRESHOLDS),
        ("logs.py", LOG_THRESHOLDS),
        ("fidelity/__init__.py", FIDELITY_THRESHOLDS),
    ],
)
def test_a_finding_names_the_cuts_of_the_module_that_gives_it(module, thresholds) -> None:
    own = {cut.id for cut in thresholds}
    source = (PACKAGE / module).read_text("utf-8")
    for explanation in EXPLANATIONS:
        if own & set(explanation.thresholds):
            assert f'"{explanation.id}"' in source
            assert set(explanation.thresholds) <= own


@pytest.mark.parametrize("explanation", EXPLANATIONS, ids=lambda e: e.id)
def test_the_cuts_that_are_printed_are_those_in_the_code(explanation) -> None:
    shown = render_explanation(explanation).plain
    lines = shown.splitlines()
    for name in explanation.thresholds:
        cut = next(c for c in CUTS if c.id == name)
        assert f"  {name} {cut.comparator} {cut.value:g}" in lines
        assert words(cut.source) in words(shown)
    assert ("\nThresholds\n" in shown) == bool(explanation.thresholds)


def test_a_changed_cut_is_printed_changed(monkeypatch) -> None:
    monkeypatch.setattr(explanations, "DEFAULT", DEFAULT.replaced({"layer-dominates": 0.625}))
    found = next(e for e in EXPLANATIONS if e.id == "layer-dominates")
    assert "layer-dominates > 0.625" in render_explanation(found).plain


@pytest.mark.parametrize("explanation", EXPLANATIONS, ids=lambda e: e.id)
def test_an_explanation_holds_every_part_and_fits_in_80_columns(explanation) -> None:
    shown = render_explanation(explanation).plain
    for part in (
        explanation.says,
        explanation.meaning,
        explanation.measured,
        explanation.confounds,
        explanation.source,
        *explanation.actions,
    ):
        assert words(part) in words(shown)
        assert words(part) == part != ""
    assert all(len(line) <= 80 and line == line.rstrip() for line in shown.splitlines())
    assert 2 <= len(re.findall(r"[.?](?=[ )]|$)", explanation.meaning)) <= 4
    assert "|" not in explanation.says  # it stands in a table


def test_every_regime_and_class_that_verdicts_name_is_explained() -> None:
    named = {*REGIMES, *CLASSES, SHORT, MIXED, INCONCLUSIVE, UNDEFINED}
    figures = {"onset", "reward_gap", "gini_corrected", "effn_corrected", "residual"}
    assert set(WORDS) == named | figures
    assert len(WORDS) == len(set(WORDS))
    assert not set(WORDS) & {*IDS, *(cut.id for cut in CUTS)}


@pytest.mark.parametrize("term", TERMS, ids=lambda t: t.id)
def test_a_word_is_explained_with_the_cuts_of_the_code_and_in_80_columns(term) -> None:
    assert explain(term.id) is term
    shown = render_term(term).plain
    for part in (term.says, term.rule, term.looks, term.source, *term.actions):
        assert words(part) == part != ""
        assert part in words(shown)
    lines = shown.splitlines()
    for name in term.thresholds:
        cut = next(c for c in CUTS if c.id == name)
        assert f"  {name} {cut.comparator} {cut.value:g}" in lines
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_explained_by_its_own_cuts_of_both_figures(name) -> None:
    (term,) = (t for t in TERMS if t.id == name)
    own = {cut.id for cut in REGIME_THRESHOLDS if cut.id.partition("-")[2] == name}
    if name == "middle":
        own = {f"{p}-leaning-{side}" for p in ("gini", "effn") for side in ("sparse", "uniform")}
    assert {t for t in term.thresholds if t[:5] in ("gini-", "effn-")} == own
    assert {"share-majority", "clusters-least"} <= set(term.thresholds)


@pytest.mark.parametrize("name", ["onset", "reward_gap", *CLASSES])
def test_a_figure_of_many_says_whether_it_is_corrected_for_that(name) -> None:
    (term,) = (t for t in TERMS if t.id == name)
    assert re.search(r"not corrected|nothing is corrected|corrected by Holm", term.rule)


def test_a_regime_is_printed_by_the_command() -> None:
    (term,) = (t for t in TERMS if t.id == "leaning-sparse")
    found = run("leaning-sparse")
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == f"{render_term(term).plain}\n"


def test_other_findings_that_are_spoken_of_exist() -> None:
    """`see nothing-moves`: every word with a hyphen that could be an id of a finding."""
    beginnings = {i.split("-")[0] for i in IDS}
    known = {*IDS, "ref-adapter"}
    said = [(e.confounds, e.meaning, *e.actions) for e in EXPLANATIONS]
    said += [(t.rule, t.looks, *t.actions) for t in TERMS]
    for texts in said:
        for text in texts:
            for word in re.findall(r"(?<![\w/-])(?:see |[Aa]s (?:for )?)([a-z]+-[a-z]+)", text):
                assert word in known or word.split("-")[0] not in beginnings, word


@pytest.mark.parametrize("identity", ["replay-mismatch", "adapter-broken"])
def test_explain_prints_plain_text_to_stdout_where_it_is_piped(identity) -> None:
    found = run(identity)
    assert (found.returncode, found.stderr) == (0, "")
    expected = render_explanation(next(e for e in EXPLANATIONS if e.id == identity)).plain
    assert found.stdout == f"{expected}\n"
    assert "\x1b" not in found.stdout


def test_a_threshold_is_explained_by_its_value_its_source_and_what_it_decides() -> None:
    found = run("fidelity-entropy-warn").stdout
    cut = next(c for c in CUTS if c.id == "fidelity-entropy-warn")
    assert found.startswith(f"{cut.id} > {cut.value:g}\n")
    assert words(cut.source) in words(found)
    assert "  finding replay-mismatch\n" in found
    assert "`sparse`" in run("gini-sparse").stdout


@pytest.mark.parametrize("cut", CUTS, ids=lambda c: c.id)
def test_every_threshold_can_be_explained(cut) -> None:
    found = explain(cut.id)
    if found != cut:  # a finding of the same name, which prints it
        assert cut.id in found.thresholds  # type: ignore[union-attr]
    assert used_by(cut.id) or cut.id in CLASS_CUTS


def test_a_list_that_is_piped_is_one_bare_id_a_line() -> None:
    for env in ({}, {"FORCE_COLOR": "1"}, {"COLUMNS": "10"}):
        found = run("--list", **env)
        assert found.stdout == "".join(f"{i}\n" for i in [*IDS, *WORDS, *CHECK_IDS])
        assert (found.returncode, found.stderr) == (0, "")


def test_a_list_on_a_terminal_says_what_each_finding_is() -> None:
    main, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "arca_diag", "explain", "--list"],
        stdout=terminal,
        stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "80", "TERM": "xterm"},
    ) as process:
        os.close(terminal)
        shown = b""
        try:
            while part := os.read(main, 4096):
                shown += part
        except OSError:  # how a terminal ends on Linux
            pass
    os.close(main)
    assert process.returncode == 0
    text = words(shown.decode())
    for explained in (*EXPLANATIONS, *TERMS):
        assert f"{explained.id} {explained.says}" in text
    assert all(len(line) <= 80 for line in shown.decode().splitlines())


def test_colour_is_off_where_it_is_not_wanted(monkeypatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = Console(force_terminal=True, width=80, highlight=False)
    with console.capture() as captured:
        print_explanation(console, EXPLANATIONS[0])
        print_list(console, EXPLANATIONS, bare=False)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", captured.get())


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("adapter-innert", "adapter-inert"),
        ("Replay-Mismatch", "replay-mismatch"),
        ("gini-spars", "gini-sparse"),
        ("no-advantages", "no-advantage"),
    ],
)
def test_an_unknown_id_exits_2_and_names_the_nearest(asked, meant) -> None:
    found = CliRunner().invoke(app, ["explain", asked])
    assert (found.exit_code, found.stdout) == (2, "")
    assert f"'{asked}': no finding, no regime and no threshold has this id" in found.stderr
    assert meant in found.stderr


@pytest.mark.parametrize(
    "asked",
    [
        "[/INST]",
        "[bold red]",
        "x" * 100_000,
        "adapter-inert\0",
        "\x1b[31m",
        "\u202e",
        "",
        " ",
        "{}",
    ],
)
def test_an_id_is_only_ever_shown_as_data(asked) -> None:
    found = CliRunner().invoke(app, ["explain", "--", asked])
    assert found.exit_code == 2
    assert found.stdout == ""
    assert len(found.stderr) < 500
    assert f"{asked!r:.100}" in found.stderr
    assert not re.search(r"[\x00\x1b\u202e]", found.stderr)


@pytest.mark.parametrize("arguments", [[], ["adapter-inert", "--list"]])
def test_explain_takes_an_id_or_the_list(arguments) -> None:
    found = CliRunner().invoke(app, ["explain", *arguments])
    assert (found.exit_code, found.stdout) == (2, "")
    assert "explain takes one id, or --list" in found.stderr


def test_a_cut_that_is_nowhere_is_no_id() -> None:
    with pytest.raises(ArcaError, match="no finding, no regime and no threshold"):
        explain("gini-none")


@pytest.mark.parametrize(
    ("written", "name"),
    [("G^", "gini_corrected"), ("gini", "gini_corrected"), ("e^", "effn_corrected")],
)
def test_a_figure_is_explained_as_it_is_printed(written: str, name: str) -> None:
    assert explain(written) is explain(name)


@pytest.mark.parametrize("arguments", [["--list"], ["replay-mismatch"], ["gini-sparse"], ["oh"]])
def test_explain_loads_no_model_library(arguments) -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from arca_diag.cli import app; "
        f"CliRunner().invoke(app, ['explain', *{arguments!r}]); "
        "print([m for m in ('torch', 'transformers', 'peft', 'matplotlib') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_findings_say_once_where_more_is_said_of_them_and_nothing_says_so_without_one() -> None:
    finding = Finding(
        id="adapter-inert",
        level="error",
        checkpoint=None,
        signal=None,
        message="m",
        evidence={},
        action="a",
        source="s",
    )
    lines = [line.plain for line in finding_lines([finding, finding])]
    assert [line for line in lines if "arca-diag explain" in line] == [lines[-1]]
    assert finding_lines([]) == []
