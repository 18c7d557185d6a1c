"""The command on hand-made results: what it writes, says and leaves alone."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from arca_diag.cli import app
from arca_diag.config import ScanConfig
from arca_diag.errors import ArcaError
from arca_diag.pipeline import Diagnosis
from tests.gate import figure, finding, report, run_with_result, write


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without any configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


def gate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["gate", *arguments])


def gini(value: float) -> Path:
    made = report(figures=(figure(value=value, low=value - 0.01, high=value + 0.01),))
    return write(Path(f"gini-{value}"), made)


class TestARun:
    @pytest.fixture
    def scans(self, monkeypatch: pytest.MonkeyPatch) -> list[ScanConfig]:
        """What was asked of a scan: none is made."""
        asked: list[ScanConfig] = []

        def diagnose(config: ScanConfig, progress: object) -> Diagnosis:
            asked.append(config)
            if config.base is None:
                raise ArcaError("no base model", hint="give one with --base")
            return Diagnosis(report=report(), folder=Path("x"), did="measured")

        monkeypatch.setattr("arca_diag.pipeline.diagnose", diagnose)
        return asked

    @pytest.mark.parametrize("options", [(), ("--credit", "residual")])
    def test_its_finished_result_is_gated_as_it_is(
        self, scans: list[ScanConfig], options: tuple[str, ...]
    ) -> None:
        folder, _ = run_with_result(Path("run"))
        kept = (folder / "report.json").read_bytes()
        Path("run").rename("moved")
        done = gate("moved", *options)
        assert done.exit_code == 0, done.output
        assert not scans
        assert (Path("moved/arca-diag/report.json")).read_bytes() == kept

    def test_a_changed_one_is_inconclusive_and_not_scanned_over(
        self, scans: list[ScanConfig]
    ) -> None:
        run_with_result(Path("run"))
        Path("run/checkpoint-20/adapter_model.safetensors").write_bytes(b"others")
        assert gate("run").exit_code == 3
        assert not scans

    @pytest.mark.parametrize("lacks", ["a checkpoint", "its end", "all"])
    def test_what_is_missing_is_scanned(self, scans: list[ScanConfig], lacks: str) -> None:
        folder, _ = run_with_result(Path("run"))
        if lacks == "a checkpoint":
            shutil.copytree("run/checkpoint-20", "run/checkpoint-40")
        elif lacks == "its end":
            (folder / "report.json").unlink()
        else:
            shutil.rmtree(folder)
        Path("arca.toml").write_text('base = "here"\n', "utf-8")
        assert gate("run").exit_code == 0
        assert len(scans) == 1

    def test_what_a_scan_asks_for_can_be_given_to_a_scan(self, scans: list[ScanConfig]) -> None:
        folder, _ = run_with_result(Path("run"))
        shutil.rmtree(folder)
        done = gate("run")
        assert done.exit_code == 2
        assert "`arca-diag scan run` has an option for it" in done.stderr


class TestUpdatingABaseline:
    UPDATE = ("--baseline", "b.json", "--update-baseline")

    @pytest.mark.parametrize(("level", "code"), [("error", 1), ("warn", 0)])
    def test_a_nightly_one_does_not_accept_what_is_worse(
        self, desk: Path, level: str, code: int
    ) -> None:
        (desk / "arca.toml").write_text(
            f'[gate.rules.drift]\nmeasurement = "gini_corrected"\nlevel = "{level}"\n'
            'max-increase = "20%"\nsignals = ["surprisal"]\n',
            "utf-8",
        )
        first = gate(str(gini(0.5)), *self.UPDATE)
        assert first.exit_code == 0
        assert "b.json was written from this result\n" in first.stdout
        kept = Path("b.json").read_bytes()
        worse = gate(str(gini(0.9)), *self.UPDATE)
        assert worse.exit_code == code
        assert "b.json was not written: drift failed" in worse.stdout
        assert Path("b.json").read_bytes() == kept
        better = gate(str(gini(0.45)), *self.UPDATE)
        assert better.exit_code == 0
        assert "passed against the old one (baseline-new-findings, drift)" in better.stdout
        assert Path("b.json").read_bytes() != kept
        Path("b.json").unlink()  # said explicitly
        assert gate(str(gini(0.9)), *self.UPDATE).exit_code == 0

    def test_a_new_warning_is_not_accepted(self) -> None:
        gate(str(write(Path("good"), report())), *self.UPDATE)
        worse = report(findings=(finding("layers-dead", "warn"),))
        done = gate(str(write(Path("bad"), worse)), *self.UPDATE)
        assert done.exit_code == 1
        assert "not written: baseline-new-findings failed" in done.stdout

    def test_what_had_nothing_to_look_at_is_told_once_a_reason(self) -> None:
        done = gate(str(write(Path("good"), report())))
        told = "baseline-unlike, baseline-new-findings (no baseline was named)\n"
        assert told in done.stdout

    def test_what_is_compared_is_said(self) -> None:
        good = str(write(Path("good"), report()))
        gate(good, *self.UPDATE)
        done = gate(good, "--baseline", "b.json")
        assert "compared: warnings and errors, no figure: no rule has max-increase" in done.stdout


class TestAnError:
    def test_no_file_of_an_earlier_gate_is_left_to_be_taken_for_its_own(self) -> None:
        result = str(write(Path("result"), report()))
        files = {"sarif": "a.sarif", "junit": "a.xml", "json": "a.json", "markdown": "a.md"}
        asked = [part for name, file in files.items() for part in ("--format", f"{name}={file}")]
        assert gate(result, *asked).exit_code == 0
        Path("arca.toml").write_text("[gate]\nmin-cluster = 9\n", "utf-8")
        done = gate(result, *asked, "--format", "github")
        assert done.exit_code == 2
        assert done.stdout.startswith("::error title=arca-diag::arca.toml [gate]: unknown key")
        assert not Path("a.json").exists()
        assert '"executionSuccessful": false' in Path("a.sarif").read_text("utf-8")
        for file in ("a.xml", "a.md", "a.sarif"):
            assert "did you mean min-clusters?" in Path(file).read_text("utf-8"), file

    @pytest.mark.parametrize("name", ["arca.toml", "result/report.json", "b.json"])
    def test_nor_is_what_the_gate_reads_written_over(self, name: str) -> None:
        write(Path("result"), report())
        Path("arca.toml").write_text("[gate]\nmin-cluster = 9\n", "utf-8")
        Path("b.json").write_text("{}", "utf-8")
        before = Path(name).read_bytes()
        done = gate("result", "--baseline", "b.json", "--format", f"junit={name}")
        assert done.exit_code == 2
        assert Path(name).read_bytes() == before


def test_a_judgement_from_the_tables_is_said_with_what_differs(desk: Path) -> None:
    folder = write(Path("result"), report())
    (desk / "arca.toml").write_text("[thresholds]\ngini-sparse = 0.9\n", "utf-8")
    done = gate(str(folder), "--epsilon", "1e-6")
    told = "judging the saved tables again, for other epsilon, gini-sparse than the result's"
    assert told in done.stderr
    assert done.exit_code == 2  # there are none
