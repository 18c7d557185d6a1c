"""`arca-diag report`: a saved result in every form, judged otherwise, without its text."""

import hashlib
import json
import os
import subprocess
import sys
import webbrowser
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from arca_diag.cli import app
from arca_diag.config import resolve
from arca_diag.pipeline import diagnose
from tests.conftest import ROOT, UNRENDERED


@pytest.fixture(scope="module")
def saved(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of a scan that rendered nothing. Do not change it."""
    out = tmp_path_factory.mktemp("saved") / "out"
    flags = {"run": tiny_run, "out": out, "groups": 8, "fixed_groups": 1, "checkpoints": "100"}
    return diagnose(resolve(flags, environ=UNRENDERED)).folder


def call(*words: Any) -> Result:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def test_a_scan_that_is_told_not_to_render_leaves_report_and_tables(saved: Path) -> None:
    assert {p.suffix for p in saved.iterdir() if p.name != ".arca-diag.json"} == {
        ".json",
        ".parquet",
    }
    listed = json.loads((saved / "report.json").read_bytes())["files"]
    assert {n for n in listed if not n.endswith(".parquet")} == {"report.json"}
    assert "log.parquet" in listed


def test_the_trainers_log_is_kept_as_it_was_logged(saved: Path, tiny_run: Path) -> None:
    rows = json.loads((tiny_run / "trainer_state.json").read_bytes())["log_history"]
    kept = pd.read_parquet(saved / "log.parquet")
    reward = kept[kept["name"] == "reward"]
    logged = {row["step"]: row["reward"] for row in rows if "reward" in row}
    assert dict(zip(reward["step"], reward["value"], strict=True)) == logged
    assert {"entropy", "gradient norm", "length"} <= set(kept["name"])


def test_without_a_file_it_prints_what_the_scan_printed(saved: Path) -> None:
    done = call(saved)
    assert done.exit_code == 0
    assert "verdict at step 100" in done.stdout
    assert f"Next     arca-diag gate {saved}" in done.stdout


def test_every_form_is_written_the_folder_is_not_and_bytes_repeat(
    saved: Path, tmp_path: Path
) -> None:
    before = hashes(saved)
    files = {name: tmp_path / f"a.{name}" for name in ("html", "pdf", "md")}
    words = [w for name, file in files.items() for w in (f"--{name}", file)]
    done = call(saved, *words)
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    assert done.stderr.startswith("At step 100 (")  # the headline, before where the pages are
    assert [f"a.{name} was written" in done.stderr for name in files] == [True] * 3
    first = {name: file.read_bytes() for name, file in files.items()}
    assert first["html"].startswith(b"<!doctype html>")
    assert first["pdf"].startswith(b"%PDF-")
    assert b"step 100" in first["md"]
    assert call(saved, *words).exit_code == 0
    assert {name: file.read_bytes() for name, file in files.items()} == first
    assert hashes(saved) == before


def test_markdown_goes_to_stdout_where_it_is_asked_to(saved: Path, tmp_path: Path) -> None:
    assert call(saved, "--md", tmp_path / "a.md").exit_code == 0
    done = call(saved, "--md", "-")
    assert done.stdout == (tmp_path / "a.md").read_text("utf-8")


def test_markdown_is_utf_8_in_every_locale(saved: Path) -> None:
    words = [sys.executable, "-m", "arca_diag", "report", str(saved), "--md", "-"]
    env = os.environ | {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, timeout=120, check=True)
    told = done.stdout.decode("utf-8")
    assert told == call(saved, "--md", "-").stdout
    assert " · " in told


def test_other_judging_options_judge_the_pages_and_not_the_folder(
    saved: Path, tmp_path: Path
) -> None:
    before = hashes(saved)
    done = call(saved, "--credit", "surprisal", "--sharpening", 2, "--md", tmp_path / "a.md")
    assert done.exit_code == 0, done.output
    assert "judging the saved tables again, for other sharpening, credit" in done.stderr
    told = (tmp_path / "a.md").read_text("utf-8")
    assert "own credit, surprisal" in told
    found = json.loads(call(saved, "--credit", "surprisal", "--sharpening", 2, "--json").stdout)
    assert found["provenance"]["options"]["credit"] == "surprisal"
    assert found["provenance"]["options"]["sharpening"] == 2.0
    assert hashes(saved) == before


def test_the_credit_alone_turns_notes_into_faults(saved: Path) -> None:
    as_is = json.loads(call(saved, "--json").stdout)
    found = json.loads(call(saved, "--credit", "surprisal", "--json").stdout)
    assert {f["level"] for f in as_is["findings"] if f["signal"] == "surprisal"} == {"note"}
    assert "warn" in {f["level"] for f in found["findings"] if f["signal"] == "surprisal"}


def test_json_is_the_document_of_the_folder(saved: Path) -> None:
    assert call(saved, "--json").stdout == (saved / "report.json").read_text("utf-8")


def test_a_run_stands_for_the_result_in_it(saved: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "arca-diag").symlink_to(saved, target_is_directory=True)
    assert call(run, "--json").stdout == (saved / "report.json").read_text("utf-8")
    assert call(saved / "report.json", "--json").stdout == call(run, "--json").stdout


class TestRedaction:
    def test_no_form_holds_text_or_an_id(self, saved: Path, tmp_path: Path) -> None:
        html, md = tmp_path / "a.html", tmp_path / "a.md"
        assert call(saved, "--html", html, "--md", md).exit_code == 0
        open_page = unescape(html.read_text("utf-8"))
        rollouts = pd.read_parquet(saved / "rollouts.parquet")
        names = set(rollouts["rollout_id"]) | set(rollouts["group_id"])
        texts = {t.rstrip(">") for t in rollouts["prompt_text"]}  # 28+57>, escaped in a script
        assert min(map(len, texts)) >= 3
        assert any(t in open_page for t in texts)  # so that the search below could find some
        assert call(saved, "--html", html, "--md", md, "--redact-text").exit_code == 0
        for page in (html.read_text("utf-8"), md.read_text("utf-8")):
            page = unescape(page)
            assert [t for t in texts | names if t in page] == []
        assert "| Texts | left out (--redact-text)" in md.read_text("utf-8")
        assert "texts left out" in md.read_text("utf-8")
        printed = json.loads(call(saved, "--redact-text", "--json").stdout)
        assert printed["provenance"]["options"]["redact_text"] is True
        from arca_diag.rendering import without_text
        from arca_diag.saved import read_tables
        from arca_diag.store import look

        report = look(saved).report
        _, frames = without_text(report, read_tables(saved, report))
        assert frames.tokens["token"].isna().all()
        assert frames.tokens["token_id"].isna().all()
        assert frames.rollouts["completion_text"].isna().all()


class TestOpen:
    def test_the_page_that_was_written_is_shown(self, saved, tmp_path, monkeypatch) -> None:
        shown: list[str] = []
        monkeypatch.setattr(webbrowser, "open", lambda uri: shown.append(uri) or True)
        page = tmp_path / "a.html"
        assert call(saved, "--html", page, "--open").exit_code == 0
        assert shown == [page.resolve().as_uri()]

    def test_without_a_file_one_is_written_elsewhere(self, saved, tmp_path, monkeypatch) -> None:
        shown: list[str] = []
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        monkeypatch.setattr(webbrowser, "open", lambda uri: shown.append(uri) or True)
        before = hashes(saved)
        assert call(saved, "--open").exit_code == 0
        (page,) = tmp_path.glob("arca-diag-*/report.html")
        assert shown == [page.resolve().as_uri()]
        assert hashes(saved) == before

    def test_where_there_is_no_browser_it_says_where_the_page_is(
        self, saved, tmp_path, monkeypatch
    ) -> None:
        monkeypatch.setattr(webbrowser, "open", lambda uri: False)
        done = call(saved, "--html", tmp_path / "a.html", "--open")
        assert done.exit_code == 2
        assert "no browser" in done.stderr
        assert "a.html" in done.stderr.replace("\n", "")


class TestRefused:
    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--html", "-"], "not for a terminal"),
            (["--pdf", "-"], "not for a terminal"),
            (["--json", "--md", "-"], "both go to stdout"),
            (["--open", "--md", "-"], "--open and --md -: nothing is opened"),
            (["--open", "--json"], "--open and --json: nothing is opened"),
            (["--html", "{tmp}/x", "--md", "{tmp}/x"], "two forms go to one file"),
            (["--font", "{tmp}/font.ttf"], "--font is for the PDF"),
            (["--html", "{saved}/report.json"], "would be written over"),
            (["--html", "{saved}/tokens.parquet"], "would be written over"),
            (["--html", "{tmp}/no/such/folder.html"], "cannot be written"),
            (["--html", "{tmp}"], "--html names the folder"),
            (["--html", "{tmp}/x", "--md", "{tmp}/../{tmp_name}/x"], "two forms go to one file"),
            (["--pdf", "{tmp}/x", "--font", "{tmp}/x"], "would be written over"),
            (["--pdf", "{tmp}/x", "--font", "/dev/zero"], "too large for a font"),
            (["--credit", "nonsense"], "credit"),
        ],
    )
    def test_it_says_what_and_exits_2(self, saved, tmp_path, monkeypatch, words, says) -> None:
        monkeypatch.setattr(webbrowser, "open", lambda uri: pytest.fail(f"{uri} was opened"))
        before = hashes(saved)
        done = call(
            saved, *(w.format(tmp=tmp_path, tmp_name=tmp_path.name, saved=saved) for w in words)
        )
        assert done.exit_code == 2, done.output
        assert says in done.stderr.replace("\n", " ")
        assert list(tmp_path.iterdir()) == []
        assert hashes(saved) == before

    def test_a_page_over_another_result_or_its_plots(self, saved: Path, tmp_path: Path) -> None:
        other = tmp_path / "run" / "arca-diag"
        (other / "plots").mkdir(parents=True)
        (other / "report.json").write_text("{}")
        (other / "tokens.parquet").write_bytes(b"kept")
        (other / "plots" / "trend.svg").write_bytes(b"kept")
        for name in ("tokens.parquet", "plots/trend.svg"):
            done = call(saved, "--html", other / name)
            assert done.exit_code == 2
            assert "is part of a result" in done.stderr.replace("\n", " ")
            assert (other / name).read_bytes() == b"kept"

    def test_a_folder_without_a_result(self, tmp_path: Path) -> None:
        done = call(tmp_path)
        assert done.exit_code == 2
        assert "is no result" in done.stderr.replace("\n", " ")

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        done = call(tmp_path / "none")
        assert done.exit_code == 2
        assert done.stderr.startswith("error: there is no ")

    def test_a_seed_below_0(self, saved: Path) -> None:
        done = call(saved, "--seed", "-5")
        assert done.exit_code == 2
        assert "seed" in done.stderr

    def test_a_result_that_does_not_say_its_sharpening(self, saved: Path, tmp_path: Path) -> None:
        old = json.loads((saved / "report.json").read_bytes())
        del old["provenance"]["options"]["sharpening"]
        (tmp_path / "report.json").write_text(json.dumps(old))
        done = call(tmp_path)
        assert done.exit_code == 2
        assert "sharpening" in done.stderr

    def test_a_result_of_another_schema_says_what_to_do(self, saved, tmp_path) -> None:
        old = json.loads((saved / "report.json").read_bytes()) | {"schema_version": 0}
        (tmp_path / "report.json").write_text(json.dumps(old))
        done = call(tmp_path)
        assert done.exit_code == 2
        assert "schema version 0" in done.stderr
        assert "scan again" in done.stderr.replace("\n", " ")

    def test_a_table_that_is_not_the_reports(self, saved, tmp_path) -> None:
        for path in saved.iterdir():
            if path.is_file():
                (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "tokens.parquet").write_bytes(b"other")
        done = call(tmp_path, "--md", "-")
        assert done.exit_code == 2
        assert "tokens.parquet is missing or was changed" in done.stderr.replace("\n", "")


def test_it_needs_no_torch(saved: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from arca_diag.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
    )
    words = ["report", saved, "--html", tmp_path / "a.html", "--pdf", tmp_path / "a.pdf"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
