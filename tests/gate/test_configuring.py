"""`config init` writes what holds; `config show` says where each value came from."""

import re
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from arca_diag.cli import app
from arca_diag.config import ScanConfig, resolve
from arca_diag.config_sources import GATE_PREFIX, config_tables
from arca_diag.gate.loading import resolve_policy
from arca_diag.gate.policy import Policy
from arca_diag.gate.profiles import rules_of
from arca_diag.thresholds import DEFAULT


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory without any configuration."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, ["config", *arguments], env=env)


class TestInit:
    def test_the_file_as_written_changes_nothing(self, desk: Path) -> None:
        assert run("init").exit_code == 0
        assert resolve({"run": "elsewhere"}, environ={}) == ScanConfig(run=Path("elsewhere"))
        tables = [(name, t["gate"]) for name, t in config_tables() if "gate" in t]
        assert resolve_policy(tables).policy == resolve_policy([]).policy

    def test_every_line_uncommented_is_the_default_too(self, desk: Path) -> None:
        run("init")
        text = (desk / "arca.toml").read_text("utf-8")
        kept = re.sub(r"^# (?=[\"a-z-]+ = (?!  ))", "", text, flags=re.M)
        kept = re.sub(
            r'^("gini_corrected"|"mean"|id =|reason =|expires =|signal =)',
            r"# \1",
            kept,
            flags=re.M,
        )
        (desk / "arca.toml").write_text(kept, "utf-8")
        assert kept.count("\n# ") < 45
        config = resolve({"run": "elsewhere"}, environ={})
        assert config.model_copy(update={"thresholds": {}}) == ScanConfig(
            run=Path("elsewhere")
        ).model_copy(update={"thresholds": {}})
        assert dict(config.thresholds) == {cut.id: cut.value for cut in DEFAULT}
        ((name, table),) = config_tables()
        found = resolve_policy([(name, table["gate"])])
        default = resolve_policy([]).policy
        assert found.policy.model_copy(update={"rules": {}}) == default.model_copy(
            update={"rules": {}}
        )
        for identity, rule in default.rules.items():
            written = found.policy.rules[identity]
            assert found.origins[f"rules.{identity}"] == "arca.toml"
            assert written.level == rule.level
            if identity.startswith("credit-"):
                assert written == rule

    def test_every_option_cut_setting_and_rule_is_in_it_with_a_comment(self, desk: Path) -> None:
        run("init")
        lines = (desk / "arca.toml").read_text("utf-8").splitlines()
        found = {m[1]: m[0] for line in lines if (m := re.match(r'# "?([\w-]+)"? = .*', line))}
        wanted = {
            *(
                n.replace("_", "-")
                for n in ScanConfig.model_fields
                if n not in ("run", "thresholds")
            ),
            *(
                n.replace("_", "-")
                for n in Policy.model_fields
                if n not in ("rules", "suppressions")
            ),
            *(cut.id for cut in DEFAULT),
            *rules_of("recommended"),
        }
        assert wanted <= set(found)
        for name in wanted:
            assert "  # " in found[name], name

    def test_a_file_that_is_there_is_not_replaced_unasked(self, desk: Path) -> None:
        (desk / "arca.toml").write_text("seed = 3\n", "utf-8")
        refused = run("init")
        assert refused.exit_code == 2
        assert "--force" in refused.stderr
        assert (desk / "arca.toml").read_text("utf-8") == "seed = 3\n"
        assert run("init", "--force").exit_code == 0

    def test_a_place_that_cannot_be_written_is_said(self, desk: Path) -> None:
        refused = run("init", "no/such/folder.toml")
        assert refused.exit_code == 2
        assert "cannot be written" in refused.stderr


class TestShow:
    def test_it_says_where_each_value_came_from(self, desk: Path) -> None:
        (desk / "pyproject.toml").write_text(
            "[tool.arca-diag]\nseed = 3\n[tool.arca-diag.gate]\nmin-clusters = 9\n", "utf-8"
        )
        (desk / "arca.toml").write_text(
            '[thresholds]\ngini-sparse = 0.9\n[gate]\nfail-on = "warn"\n'
            '[gate.rules]\n"gini_corrected" = { max = 0.5 }\n'
            '[[gate.suppressions]]\nid = "layers-dead"\nreason = "known"\nexpires = 2030-01-01\n',
            "utf-8",
        )
        env = {"ARCA_DIAG_GROUPS": "3", f"{GATE_PREFIX}MIN_TOKENS": "7"}
        shown = run("show", "--profile", "strict", env=env).stdout
        for line in (
            "seed = 3  # pyproject.toml",
            "groups = 3  # environment",
            "gini-sparse = 0.9  # arca.toml",
            "gini-uniform = 0.15  # default",
            "min-clusters = 9  # pyproject.toml",
            "min-tokens = 7  # environment",
            'fail-on = "warn"  # arca.toml',
            'checkpoint = "all"  # profile strict',
            'profile = "strict"  # flag',
            '"gini_corrected" = { level = "error", max = 0.5 }  # arca.toml',
            "expires = 2030-01-01",
        ):
            assert line in shown.splitlines(), line

    def test_what_it_prints_of_the_gate_is_a_file_that_says_the_same(self, desk: Path) -> None:
        (desk / "arca.toml").write_text(
            '[gate.rules]\ndrift = { measurement = "mean", max-increase = "20%", '
            'signals = ["surprisal", "residual"] }\n'
            '"credit-sparse" = { signals = "declared", regimes = ["sparse"] }\n',
            "utf-8",
        )
        (name, table), *_ = config_tables()
        before = resolve_policy([(name, table["gate"])]).policy
        shown = run("show").stdout
        assert resolve_policy([("x.toml", tomllib.loads(shown)["gate"])]).policy == before

    def test_a_typo_exits_2_with_the_nearest_name(self, desk: Path) -> None:
        (desk / "arca.toml").write_text("[gate]\nfail-onn = 'warn'\n", "utf-8")
        refused = run("show")
        assert refused.exit_code == 2
        assert "did you mean fail-on?" in refused.stderr

    def test_nothing_is_read_of_a_run_that_the_working_directory_lies_in(self, desk: Path) -> None:
        (desk / "arca.toml").write_text("seed = 3\n[gate]\nmin-clusters = 1\n", "utf-8")
        shown = run("show", ".").stdout
        assert "seed = 0  # default" in shown
        assert "min-clusters = 8  # default" in shown

    def test_a_named_file_is_read_instead(self, desk: Path) -> None:
        (desk / "arca.toml").write_text("seed = 3\n", "utf-8")
        (desk / "other.toml").write_text("groups = 5\n[gate]\nview = 'fixed-set'\n", "utf-8")
        shown = run("show", "--config", "other.toml").stdout
        assert "seed = 0  # default" in shown
        assert "groups = 5  # other.toml" in shown
        assert 'view = "fixed-set"  # other.toml' in shown
        absent = run("show", "--config", "none.toml")
        assert absent.exit_code == 2
        assert "none.toml is not a file" in absent.stderr
