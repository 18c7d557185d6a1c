"""Where a gate writes, and what it says when it cannot: no stream and no name makes it crash."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from arca_diag.gating import make_baseline
from tests.gate import finding, gated, policy, report, write
from tests.gate.test_matrix import LAST, Done, call

HEALTHY = report()
BAD = report(findings=(finding("adapter-inert", checkpoint=20),))
LONG = "a" * 300


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A working directory with a healthy result and a bad one."""
    write(tmp_path / "healthy", HEALTHY)
    write(tmp_path / "bad", BAD)
    return tmp_path


@pytest.fixture
def gate(desk: Path) -> Callable[..., Done]:
    def run(*arguments: str | Path, **env: str) -> Done:
        return call("gate", *arguments, cwd=desk, **env)

    return run


def shell(desk: Path, line: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which `gate` is ours."""
    command = f'gate() {{ {sys.executable} -m arca_diag gate "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", command],
        cwd=desk,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


class TestStreams:
    @pytest.mark.parametrize("name", ["text", "json"])
    @pytest.mark.parametrize(("result", "code"), [("healthy", 0), ("bad", 1)])
    def test_a_closed_stdout_changes_no_code(
        self, desk: Path, name: str, result: str, code: int
    ) -> None:
        done = shell(desk, f"gate {result} --format {name} >&-")
        assert done.returncode == code
        assert "Traceback" not in done.stderr

    def test_both_streams_closed_change_no_code(self, desk: Path) -> None:
        assert shell(desk, "gate bad >&- 2>&-").returncode == 1
        assert shell(desk, "gate bad --bogus >&- 2>&-").returncode == 2

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
    @pytest.mark.parametrize("name", ["text", "json"])
    def test_a_full_disk_is_something_to_mend_and_no_failed_gate(
        self, desk: Path, name: str
    ) -> None:
        done = shell(desk, f"gate healthy --format {name} > /dev/full")
        assert done.returncode == 2
        assert "no space left" in done.stderr.splitlines()[0]
        assert LAST.fullmatch(done.stderr.strip().splitlines()[-1])

    @pytest.mark.parametrize("name", ["text", "junit", "markdown"])
    def test_a_locale_without_the_letters_of_a_name_is_no_crash(
        self, gate, desk: Path, name: str
    ) -> None:
        made = HEALTHY.model_copy(
            update={"run": HEALTHY.run.model_copy(update={"name": "h\xe9 @"})}
        )
        write(desk / "named", made)
        done = gate("named", "--format", name, PYTHONIOENCODING="ascii")
        assert done.code == 0
        if name == "junit":
            run = ElementTree.fromstring(done.stdout).find(".//property[@name='Run']")
            assert run is not None
            assert run.get("value", "").startswith("h\xe9 @")


class TestLastLine:
    @pytest.mark.parametrize(
        "arguments", [(), ("healthy", "--bogus"), ("healthy", "--epsilon", "x")]
    )
    def test_it_comes_after_an_option_that_there_is_not(
        self, gate, arguments: tuple[str, ...]
    ) -> None:
        done = gate(*arguments)
        assert done.code == 2
        assert done.stdout == ""
        assert LAST.fullmatch(done.last)
        assert "arca-diag gate --help" in done.stderr

    def test_it_comes_after_a_bug_of_ours(self, desk: Path) -> None:
        code = (
            "import sys; sys.argv = ['arca-diag', 'gate', 'healthy']\n"
            "import arca_diag.commands.gate as gate, arca_diag.cli as cli\n"
            "def broken(*_, **__): raise RuntimeError('planted')\n"
            "gate.run_gate = broken\n"
            "cli.main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=desk,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 101
        assert "planted" in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("arca-diag: ERROR a bug of ours")

    def test_a_scan_that_is_gated_ends_with_it_too(self, desk: Path) -> None:
        done = call("scan", "nowhere", "--fail-on", "error", cwd=desk)
        assert done.code == 2
        assert LAST.fullmatch(done.last)


class TestNames:
    @pytest.mark.parametrize("name", [".", "..", "/", "bad", LONG])
    def test_what_cannot_be_written_is_said_and_leaves_nothing(
        self, gate, desk: Path, name: str
    ) -> None:
        before = {path.name for path in desk.iterdir()}
        done = gate("healthy", "--format", f"json={name}")
        assert done.code == 2
        assert "cannot be written" in done.stderr
        assert {path.name for path in desk.iterdir()} == before

    @pytest.mark.parametrize(
        "arguments", [(LONG,), ("healthy", "--config", LONG), ("healthy", "--baseline", LONG)]
    )
    def test_a_name_that_no_file_can_have_is_no_crash(
        self, gate, arguments: tuple[str, ...]
    ) -> None:
        assert gate(*arguments).code == 2

    def test_a_device_is_written_into_and_not_replaced(self, gate, desk: Path) -> None:
        os.mkfifo(desk / "pipe")
        done = shell(desk, "cat pipe > read & gate healthy --format json=pipe; wait")
        assert done.returncode == 0
        assert stat.S_ISFIFO((desk / "pipe").stat().st_mode)
        assert json.loads((desk / "read").read_text("utf-8"))["status"] == "PASSED"

    def test_a_link_stays_a_link(self, gate, desk: Path) -> None:
        (desk / "out.json").symlink_to("real.json")
        assert gate("healthy", "--format", "json=out.json").code == 0
        assert (desk / "out.json").is_symlink()
        assert json.loads((desk / "real.json").read_text("utf-8"))["status"] == "PASSED"

    def test_a_link_that_someone_left_beside_it_is_not_followed(self, gate, desk: Path) -> None:
        (desk / "mine").write_text("kept")
        (desk / ".out.json.part").symlink_to("mine")
        assert gate("healthy", "--format", "json=out.json").code == 0
        assert (desk / "mine").read_text() == "kept"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--format", "json=healthy/report.json"),
            ("--format", "json=link.json"),
            ("--format", "json=b.json", "--baseline", "b.json"),
            ("--format", "json=p.toml", "--config", "p.toml"),
            ("--format", "sarif", "--output", "arca.toml"),
            ("--baseline", "healthy/report.json", "--update-baseline"),
            ("--format", "json=x", "--format", "sarif=same"),
        ],
    )
    def test_nothing_is_written_over_what_is_read(
        self, gate, desk: Path, arguments: tuple[str, ...]
    ) -> None:
        (desk / "link.json").symlink_to("healthy/report.json")
        (desk / "same").symlink_to("x")
        (desk / "b.json").write_text(make_baseline(HEALTHY, policy(), gated(HEALTHY)).to_json())
        for name in ("arca.toml", "p.toml"):
            (desk / name).write_text("[gate]\n", "utf-8")
        before = {path: path.read_bytes() for path in desk.glob("**/*") if path.is_file()}
        done = gate("healthy", *arguments)
        assert done.code == 2
        assert {path: path.read_bytes() for path in desk.glob("**/*") if path.is_file()} == before

    @pytest.mark.parametrize("name", ["##[error]x", "##vso[task.x]y", "::error::z"])
    def test_no_message_has_a_command_in_it(self, gate, name: str) -> None:
        done = gate(name)
        assert done.code == 2
        assert "##[" not in done.stderr
        assert "##vso[" not in done.stderr
        assert not any(line.lstrip().startswith("::") for line in done.stderr.splitlines())

    def test_json_on_stdout_has_no_command_in_it_and_says_the_same(self, gate, desk: Path) -> None:
        text = "###[error]a ##vso[task.x]b \\##[c"
        write(desk / "bad", report(findings=(finding("adapter-inert", message=text),)))
        done = gate("bad", "--format", "json")
        assert "##" not in done.stdout
        said = next(r for r in json.loads(done.stdout)["rules"] if r["id"] == "adapter-inert")
        assert said["message"] == text


class TestPolicyFiles:
    @pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
    def test_one_that_is_no_file_does_not_turn_the_policy_off_unseen(
        self, gate, desk: Path, make: Callable[[Path], None]
    ) -> None:
        make(desk / "arca.toml")
        done = gate("healthy")
        assert done.code == 2
        assert "arca.toml is not a file" in done.last

    def test_a_number_of_too_many_digits_is_no_crash(self, gate, desk: Path) -> None:
        (desk / "arca.toml").write_text(f"[gate]\nmin-clusters = {'9' * 5000}\n", "utf-8")
        assert gate("healthy").code == 2

    def test_an_editors_mark_at_the_start_is_no_fault(self, gate, desk: Path) -> None:
        (desk / "arca.toml").write_text("\ufeff[gate]\r\nmin-clusters = 99\r\n", "utf-8")
        assert gate("healthy").code == 3

    @pytest.mark.parametrize("target", ["arca-diag", "arca-diag/report.json", "other", "."])
    def test_one_in_the_run_is_not_read_however_the_result_is_named(
        self, own_run: Path, target: str
    ) -> None:
        for name in ("arca-diag", "other"):
            write(own_run / name, BAD)
        write(own_run / "arca-diag" / "deep", HEALTHY)
        (own_run / "arca.toml").write_text('[gate]\nfail-on = "never"\n', "utf-8")
        cwd = own_run / "arca-diag" if target == "." else own_run
        done = call("gate", target, cwd=cwd)
        assert done.code == 1
        assert done.stderr.count("is not read") == (target != ".")
