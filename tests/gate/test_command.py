"""The command on hand-made results: what it writes, says and leaves alone."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from arca_diag.cli import app
from tests.gate import figure, finding, report, write


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

    def test_what_is_compared_is_said(self) -> None:
        good = str(write(Path("good"), report()))
        gate(good, *self.UPDATE)
        done = gate(good, "--baseline", "b.json")
        assert "compared: warnings and errors, no figure: no rule has max-increase" in done.stdout
