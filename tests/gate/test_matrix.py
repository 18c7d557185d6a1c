"""The gate from the command line: every exit code, format and profile, on real results.

The results are scans of the tiny sample: as it is, too small, with an adapter that does nothing,
and with a planted collapse (all surprisal on one token of each completion).
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import jsonschema
import pytest
from safetensors.numpy import load_file, save_file

from arca_diag import judging, store
from arca_diag.config import resolve
from arca_diag.gate import names
from arca_diag.gate.profiles import PROFILES
from arca_diag.pipeline import diagnose
from arca_diag.results import Report
from arca_diag.saved import read_tables
from tests.conftest import UNRENDERED
from tests.gate.test_outcome import PUBLISHED

#: Enough prompts for every cause: credit of the first token alone goes by place.
SMALL = {"groups": 16, "fixed_groups": 12}
LAST = re.compile(r"arca-diag: (PASSED|FAILED|INCONCLUSIVE|ERROR) .+ in \d+\.\d s", re.DOTALL)
FORMATS = ("text", "json", "junit", "github", "sarif", "markdown")


@dataclasses.dataclass(frozen=True)
class Done:
    """What a call of the command left."""

    code: int
    stdout: str
    stderr: str

    @property
    def last(self) -> str:
        return (self.stdout + self.stderr).strip().splitlines()[-1]


def call(*arguments: str | Path, cwd: Path, **env: str) -> Done:
    """`arca-diag` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "arca_diag", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={k: v for k, v in os.environ.items() if not k.startswith("ARCA_DIAG_")}
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
        | UNRENDERED
        | env,
        timeout=300,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A working directory without configuration."""
    folder = tmp_path / "desk"
    folder.mkdir()
    return folder


@pytest.fixture
def gate(desk: Path) -> Callable[..., Done]:
    def run(*arguments: str | Path, **env: str) -> Done:
        return call("gate", *arguments, cwd=desk, **env)

    return run


def scanned(run: Path, out: Path, **options: object) -> Path:
    return diagnose(resolve({"run": run, "out": out, **options}, environ=UNRENDERED)).folder


@pytest.fixture(scope="module")
def healthy(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("healthy") / "result"
    return scanned(tiny_run, out, checkpoints="20,100", **SMALL)


@pytest.fixture(scope="module")
def too_small(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "result"
    return scanned(tiny_run, out, checkpoints="last", groups=3, fixed_groups=3)


@pytest.fixture(scope="module")
def no_op(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("no-op") / tiny_run.name))
    path = run / "checkpoint-100" / "adapter_model.safetensors"
    save_file({k: 0 * v if ".lora_B." in k else v for k, v in load_file(path).items()}, path)
    return scanned(run, run.parent / "result", checkpoints="last", **SMALL)


@pytest.fixture(scope="module")
def collapsed(healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The healthy result with all surprisal on each completion's first token, judged again."""
    out = Path(shutil.copytree(healthy, tmp_path_factory.mktemp("collapsed") / "result"))
    report = Report.from_json((out / "report.json").read_bytes())
    saved = read_tables(out, report)
    tokens = saved.tokens.copy()
    first = tokens[tokens["counted"]].groupby(["checkpoint", "rollout_id"]).head(1).index
    tokens["surprisal"] = 1e-6
    tokens.loc[first, "surprisal"] = 9.0
    # The replicas that tell rounding from signal have it too, to the last digit.
    keys = ["checkpoint", "rollout_id", "position"]
    same = saved.noise[keys].merge(tokens[[*keys, "surprisal"]], on=keys, how="left")
    noise = saved.noise.assign(surprisal=same["surprisal"].to_numpy())
    planted = dataclasses.replace(saved, tokens=tokens, noise=noise)
    options = report.provenance.options
    asked = {k: options[k] for k in ("credit", "credit_source", "epsilon", "sharpening", "seed")}
    config = resolve({"run": out}, environ={}, cwd=out.parent)
    again, tables = judging.again(report, planted, config, asked | {"thresholds": None})
    files = tables.to_parquet()
    for name, data in files.items():
        (out / name).write_bytes(data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    again = again.model_copy(update={"files": again.files | digests})
    (out / "report.json").write_text(again.to_json(), "utf-8")
    (out / store.MARKER).unlink()  # it knows the report that the scan wrote
    return out


def edited(result: Path, out: Path, **parts: object) -> Path:
    """A copy of a result whose report has other parts."""
    shutil.copytree(result, out)
    document = json.loads((out / "report.json").read_text("utf-8")) | parts
    (out / "report.json").write_text(json.dumps(document), "utf-8")
    (out / store.MARKER).unlink()
    return out


class TestExitCodes:
    @pytest.mark.parametrize("profile", ["recommended", "lenient"])
    def test_the_healthy_sample_passes(self, gate, healthy: Path, profile: str) -> None:
        done = gate(healthy, "--profile", profile)
        assert done.code == 0, done.stdout
        assert done.last.startswith("arca-diag: PASSED 0 errors, 0 warnings (")

    def test_strict_holds_it_to_signals_that_it_does_not_train_on(
        self, gate, healthy: Path
    ) -> None:
        done = gate(healthy, "--profile", "strict")
        assert done.code == 1
        assert "credit-sparse" in done.stdout

    @pytest.mark.parametrize("profile", PROFILES)
    def test_an_adapter_that_does_nothing_fails_every_profile_and_is_named_first(
        self, gate, no_op: Path, profile: str
    ) -> None:
        done = gate(no_op, "--profile", profile, "--format", "json")
        assert done.code == 1
        document = json.loads(done.stdout)
        failed = [r["id"] for r in document["rules"] if r["status"] == "failed"]
        assert failed[0] == "adapter-inert"

    def test_a_collapse_passes_undeclared_and_fails_declared(self, gate, collapsed: Path) -> None:
        assert gate(collapsed).code == 0
        done = gate(collapsed, "--credit", "surprisal")
        assert done.code == 1
        first = next(line for line in done.stdout.splitlines() if line.startswith("error "))
        assert "surprisal" in first
        assert "[credit-" in first

    def test_a_written_rule_judges_a_collapse_that_nobody_trains_on(
        self, gate, desk: Path, collapsed: Path, healthy: Path
    ) -> None:
        (desk / "arca.toml").write_text(
            '[gate.rules]\n"gini_corrected" = { max = 0.98, signals = ["surprisal"] }\n', "utf-8"
        )
        assert gate(collapsed).code == 1
        assert gate(healthy).code == 0

    @pytest.mark.parametrize("profile", PROFILES)
    def test_too_small_a_run_is_inconclusive_in_every_profile(
        self, gate, too_small: Path, profile: str
    ) -> None:
        done = gate(too_small, "--profile", profile)
        assert done.code == 3 or (profile == "strict" and done.code == 1)
        assert "evidence-too-little" in done.stdout
        assert gate(too_small, "--inconclusive", "pass", "--fail-on", "error").code == 0

    def test_exit_zero_reports_and_lets_pass(self, gate, no_op: Path, too_small: Path) -> None:
        done = gate(no_op, "--exit-zero")
        assert (done.code, "FAILED" in done.last) == (0, True)
        done = gate(too_small, "--exit-zero")
        assert (done.code, "INCONCLUSIVE" in done.last) == (0, True)

    def test_exit_zero_does_not_hide_what_must_be_mended(self, gate, desk: Path) -> None:
        assert gate(desk / "nowhere", "--exit-zero").code == 2

    def test_a_bug_exits_101_and_is_no_finding(self, desk: Path, healthy: Path) -> None:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys, arca_diag.commands.gate as g\n"
                "def broken(*a, **k): raise RuntimeError('a bug')\n"
                "g.run_gate = broken\n"
                f"sys.argv = ['arca-diag', 'gate', {str(healthy)!r}]\n"
                "from arca_diag.cli import main\nmain()",
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=desk,
        )
        assert done.returncode == 101
        assert "RuntimeError: a bug" in done.stderr


class TestMend:
    @pytest.mark.parametrize(
        "content",
        [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"schema_version": 1}', b"NaN"],
    )
    def test_a_corrupt_report(self, gate, desk: Path, content: bytes) -> None:
        (desk / "result").mkdir()
        (desk / "result" / "report.json").write_bytes(content)
        done = gate("result")
        assert done.code == 2
        assert done.last.startswith("arca-diag: ERROR ")
        assert "report.json" in done.last
        assert "error: " in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_a_report_of_another_schema_says_so(
        self, gate, healthy: Path, tmp_path: Path, version: object
    ) -> None:
        done = gate(edited(healthy, tmp_path / "other", schema_version=version))
        assert done.code == 2
        assert "schema version" in done.stderr

    def test_a_report_with_a_figure_outside_its_interval(
        self, gate, healthy: Path, tmp_path: Path
    ) -> None:
        document = json.loads((healthy / "report.json").read_text("utf-8"))
        figures = document["measurements"]
        figure = next(m for m in figures if m["name"] == "gini" and m["low"] is not None)
        figure["value"] = 0.0
        done = gate(edited(healthy, tmp_path / "odd", measurements=figures))
        assert done.code == 2
        assert "outside its interval" in done.stderr

    def test_an_empty_folder_and_no_folder(self, gate, desk: Path) -> None:
        (desk / "empty").mkdir()
        for target in ("empty", "nowhere"):
            assert gate(target).code == 2

    def test_a_result_that_was_not_finished(self, gate, healthy: Path, tmp_path: Path) -> None:
        out = Path(shutil.copytree(healthy, tmp_path / "unfinished"))
        (out / "report.json").unlink()
        done = gate(out)
        assert done.code == 2
        assert "not finished" in done.stderr

    @pytest.mark.parametrize(
        ("policy", "meant"),
        [
            ('[gate]\nprofil = "strict"\n', "profile"),
            ('[gate.rules]\n"credit-spars" = "error"\n', "credit-sparse"),
            ("[gate.rules]\ngini_corected = { max = 1 }\n", "gini_corrected"),
            ('[gate]\nselect = ["adapter-innert"]\n', "adapter-inert"),
        ],
    )
    def test_a_policy_with_a_typo_names_what_was_meant(
        self, gate, desk: Path, healthy: Path, policy: str, meant: str
    ) -> None:
        (desk / "arca.toml").write_text(policy, "utf-8")
        done = gate(healthy)
        assert done.code == 2
        assert f"did you mean {meant}?" in done.stderr
        assert done.last.startswith("arca-diag: ERROR ")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--format", "jnit"),
            ("--format", "json", "--format", "sarif"),
            ("--format", "json=a", "--format", "sarif=a"),
            ("--format", "json="),
            ("--output", "x"),
            ("--format", "text", "--output", "x"),
            ("--format", "json", "--format", "sarif=b", "--output", "x"),
            ("--format", "json=no/such/folder/x"),
            ("--fail-on", "fatal"),
            ("--credit", "suprisal"),
            ("--checkpoint", "17"),
            ("--profile", "strictest"),
            ("--update-baseline",),
            ("--baseline", "none.json"),
            ("--config", "none.toml"),
        ],
    )
    def test_options_that_mean_nothing(
        self, gate, healthy: Path, arguments: tuple[str, ...]
    ) -> None:
        done = gate(healthy, *arguments)
        assert done.code == 2
        assert done.last.startswith("arca-diag: ERROR ")


class TestOnDisk:
    @pytest.fixture
    def beside(self, own_run: Path, healthy: Path) -> Path:
        """The healthy result where a scan leaves it: in its run."""
        return Path(shutil.copytree(healthy, own_run / "arca-diag"))

    def test_a_result_in_its_run_is_compared_with_it(self, gate, beside: Path) -> None:
        done = gate(beside, "--format", "json")
        assert done.code == 0
        assert json.loads(done.stdout)["judged"]["compared_with_run"]

    def test_a_changed_adapter_makes_it_stale(self, gate, beside: Path) -> None:
        path = beside.parent / "checkpoint-20" / "adapter_model.safetensors"
        save_file({k: v + 1e-3 for k, v in load_file(path).items()}, path)
        done = gate(beside)
        assert done.code == 3
        assert "checkpoint-20 has changed" in done.stdout

    def test_a_newer_checkpoint_makes_it_stale(self, gate, beside: Path) -> None:
        shutil.copytree(beside.parent / "checkpoint-100", beside.parent / "checkpoint-120")
        done = gate(beside)
        assert done.code == 3
        assert "checkpoint-120 came after the scan" in done.stdout

    def test_a_deleted_checkpoint_does_not(self, gate, beside: Path) -> None:
        shutil.rmtree(beside.parent / "checkpoint-20")
        assert gate(beside).code == 0

    def test_given_the_run_its_stale_result_is_not_scanned_over(self, gate, beside: Path) -> None:
        path = beside.parent / "checkpoint-20" / "adapter_model.safetensors"
        save_file({k: v + 1e-3 for k, v in load_file(path).items()}, path)
        done = gate(beside.parent)
        assert done.code == 3
        assert "result-stale" in done.stdout

    def test_a_result_of_another_run_is_foreign(self, gate, beside: Path) -> None:
        for path in beside.parent.glob("checkpoint-*/adapter_model.safetensors"):
            save_file({k: v + 1e-3 for k, v in load_file(path).items()}, path)
        for path in beside.parent.glob("checkpoint-*/adapter_config.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 9}))
        for path in beside.parent.glob("completions/*.parquet"):
            path.write_bytes(path.read_bytes() + b" ")
        done = gate(beside)
        assert done.code == 3
        assert "result-foreign" in done.stdout

    def test_tables_of_another_scan_are_foreign(
        self, gate, healthy: Path, too_small: Path, tmp_path: Path
    ) -> None:
        out = Path(shutil.copytree(healthy, tmp_path / "mixed"))
        shutil.copyfile(too_small / "tokens.parquet", out / "tokens.parquet")
        done = gate(out)
        assert done.code == 3
        assert "tokens.parquet is not the one" in done.stdout

    def test_the_report_alone_is_enough(self, gate, healthy: Path, desk: Path) -> None:
        shutil.copyfile(healthy / "report.json", desk / "mine.json")
        assert gate("mine.json").code == 0

    def test_a_policy_in_the_run_is_not_read(self, beside: Path) -> None:
        (beside.parent / "arca.toml").write_text('[gate]\nfail-on = "never"\nprofil = 1\n')
        done = call("gate", "arca-diag", cwd=beside.parent)
        assert done.code == 0
        assert "arca.toml is not read" in done.stderr

    def test_a_result_copied_into_a_repository_is_held_to_its_policy(
        self, gate, desk: Path, healthy: Path
    ) -> None:
        shutil.copytree(healthy, desk / "arca-diag")
        (desk / "arca.toml").write_text("[gate]\nmin-clusters = 99\n", "utf-8")
        assert gate("arca-diag").code == 3


class TestFormats:
    @pytest.mark.parametrize("name", FORMATS)
    def test_stdout_carries_the_format_and_nothing_else(
        self, gate, no_op: Path, name: str, desk: Path
    ) -> None:
        done = gate(no_op, "--format", name, GITHUB_STEP_SUMMARY=str(desk / "summary.md"))
        assert done.code == 1
        where = done.stdout if name == "text" else done.stderr
        assert LAST.fullmatch(where.strip().splitlines()[-1])
        if name == "json":
            jsonschema.Draft202012Validator(PUBLISHED).validate(json.loads(done.stdout))
        elif name == "junit":
            assert int(ElementTree.fromstring(done.stdout).get("failures", "0")) >= 1
        elif name == "sarif":
            assert json.loads(done.stdout)["version"] == "2.1.0"
        elif name == "github":
            assert all(line.startswith("::") for line in done.stdout.splitlines())
            assert (desk / "summary.md").read_text("utf-8").startswith("## arca-diag: FAILED")
        elif name == "markdown":
            assert done.stdout.startswith("## arca-diag: FAILED")

    def test_several_go_to_files_and_one_to_stdout(self, gate, healthy: Path, desk: Path) -> None:
        done = gate(
            healthy, "--format", "junit=j.xml", "--format", "sarif=s.json", "--format", "text"
        )
        assert done.code == 0
        assert ElementTree.parse(desk / "j.xml").getroot().tag == "testsuites"
        assert json.loads((desk / "s.json").read_text("utf-8"))["runs"]
        assert done.last == done.stdout.strip().splitlines()[-1]

    def test_output_names_the_file_of_the_one_format(self, gate, healthy: Path, desk: Path) -> None:
        done = gate(healthy, "--format", "markdown", "--output", "gate.md")
        assert done.code == 0
        assert (desk / "gate.md").read_text("utf-8").startswith("## arca-diag: PASSED")
        assert done.stdout.count("\n") == 1  # the last line

    def test_a_reader_that_goes_away_does_not_change_the_code(
        self, desk: Path, no_op: Path
    ) -> None:
        command = f"{sys.executable} -m arca_diag gate {no_op} --format json"
        line = f"{command} | head -1; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=desk,
            capture_output=True,
            check=False,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.returncode == 1


class TestBaseline:
    def test_it_is_written_from_a_pass_and_compared_with(
        self, gate, healthy: Path, collapsed: Path, no_op: Path, desk: Path
    ) -> None:
        (desk / "arca.toml").write_text(
            "[gate.rules.surprisal]\nmeasurement = 'gini_corrected'\nmax-increase = 0.02\n"
            "signals = ['surprisal']\n",
            "utf-8",
        )
        wrote = gate(healthy, "--baseline", "b.json", "--update-baseline")
        assert wrote.code == 0, wrote.stdout
        assert "b.json was written" in wrote.stdout
        worse = gate(collapsed, "--baseline", "b.json")
        assert worse.code == 1
        assert "surely past the bound" in worse.stdout
        kept = (desk / "b.json").read_bytes()
        refused = gate(no_op, "--baseline", "b.json", "--update-baseline")
        assert refused.code == 1
        assert "b.json was not written" in refused.stdout
        assert (desk / "b.json").read_bytes() == kept


class TestScan:
    @pytest.mark.slow
    def test_scan_gates_with_the_same_codes(self, own_run: Path, desk: Path) -> None:
        few = 'checkpoints = "last"\ngroups = 12\nfixed-groups = 12\n'
        (desk / "arca.toml").write_text(few, "utf-8")
        done = call("scan", own_run, "--fail-on", "error", cwd=desk)
        assert done.code == 0, done.stderr
        assert LAST.fullmatch(done.stdout.strip().splitlines()[-1])
        assert "PASSED" in done.stdout.strip().splitlines()[-1]
        # Over the finished result nothing is measured again, and the gate is another.
        (desk / "arca.toml").write_text(f"{few}[gate]\nmin-clusters = 99\n", "utf-8")
        again = call("scan", own_run, "--fail-on", "error", "--json", cwd=desk)
        assert again.code == 3
        assert json.loads(again.stdout)["schema_version"] == 1
        assert "INCONCLUSIVE" in again.stderr.strip().splitlines()[-1]
        run = call("gate", own_run, "--checkpoint", "100", cwd=desk)
        assert run.code == 3
        assert call("scan", own_run, "--fail-on", "eror", cwd=desk).code == 2

    def test_a_wrong_policy_is_said_before_the_scan(self, own_run: Path, desk: Path) -> None:
        (desk / "arca.toml").write_text("[gate]\nmin-cluster = 9\n", "utf-8")
        done = call("scan", own_run, "--fail-on", "error", cwd=desk)
        assert done.code == 2
        assert not (own_run / "arca-diag").exists()


class TestCost:
    def test_neither_torch_nor_tables_are_imported_for_a_saved_result(
        self, desk: Path, healthy: Path
    ) -> None:
        code = (
            f"import sys; sys.argv = ['arca-diag', 'gate', {str(healthy)!r}, '--format', 'json']\n"
            "from arca_diag.cli import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "heavy = {'torch', 'transformers', 'peft', 'pandas', 'scipy', 'numpy'}\n"
            "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=desk,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert done.stderr.strip().splitlines()[-1] == "[]"

    @pytest.mark.slow
    def test_a_credit_of_trl_and_another_power_are_judged_from_the_tables(
        self, gate, healthy: Path
    ) -> None:
        done = gate(healthy, "--sharpening", "2", "--format", "json")
        assert done.code in (0, 1)
        assert gate(healthy, "--credit", "top_entropy:0.01").code == 0


def test_every_figure_of_a_real_report_can_be_bounded(healthy: Path) -> None:
    report = Report.from_json((healthy / "report.json").read_bytes())
    assert {m.name for m in report.measurements} <= set(names.FIGURES)
    without = {m.name for m in report.measurements if m.value is not None and m.low is None}
    assert without <= {*names.WITHOUT_INTERVAL, "class_lift", "type_overlap_null"}
