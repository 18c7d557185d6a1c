import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from arca_diag.config import CREDITS, JUDGING, REPLAY, ScanConfig, resolve
from arca_diag.errors import ConfigError
from arca_diag.signals import SIGNAL_NAMES
from arca_diag.thresholds import DEFAULT, OF_FILES, OF_TABLES


class Desk:
    """A working directory beside a run, to resolve a configuration in."""

    def __init__(self, root: Path) -> None:
        self.run = root / "run"
        self.cwd = root / "work"
        self.run.mkdir()
        self.cwd.mkdir()

    def write(self, name: str, text: str | bytes, folder: Path | None = None) -> None:
        data = text if isinstance(text, bytes) else text.encode()
        ((folder or self.cwd) / name).write_bytes(data)

    def resolve(
        self, environ: dict[str, str] | None = None, *, cwd: Path | None = None, **flags: Any
    ) -> ScanConfig:
        given = {"run": self.run} | flags
        return resolve(given, environ=environ or {}, cwd=cwd or self.cwd)

    def refused(self, environ: dict[str, str] | None = None, **flags: Any) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.resolve(environ, **flags)
        return caught.value


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


class TestPrecedence:
    LAYERS = ("default", "pyproject", "arca.toml", "environment", "flag")

    @pytest.mark.parametrize("highest", range(5), ids=LAYERS)
    def test_the_highest_layer_that_says_something_wins(self, desk: Desk, highest):
        if highest >= 1:
            desk.write("pyproject.toml", "[tool.arca-diag]\nseed = 1\n")
        if highest >= 2:
            desk.write("arca.toml", "seed = 2\n")
        environ = {"ARCA_DIAG_SEED": "3"} if highest >= 3 else {}
        flags = {"seed": 4} if highest >= 4 else {}
        assert desk.resolve(environ, **flags).seed == highest

    @pytest.mark.parametrize("lowest", range(1, 5), ids=LAYERS[1:])
    def test_each_layer_alone_is_heard(self, desk: Desk, lowest):
        if lowest == 1:
            desk.write("pyproject.toml", "[tool.arca-diag]\nseed = 1\n")
        if lowest == 2:
            desk.write("arca.toml", "seed = 2\n")
        environ = {"ARCA_DIAG_SEED": "3"} if lowest == 3 else {}
        flags = {"seed": 4} if lowest == 4 else {}
        assert desk.resolve(environ, **flags).seed == lowest

    def test_layers_are_merged_key_by_key(self, desk: Desk):
        desk.write("pyproject.toml", "[tool.arca-diag]\nepsilon = 0.5\nseed = 1\n")
        desk.write("arca.toml", "groups = 3\nseed = 2\n")
        found = desk.resolve({"ARCA_DIAG_SHARPENING": "2"}, seed=9)
        assert (found.epsilon, found.groups, found.sharpening, found.seed) == (0.5, 3, 2.0, 9)

    def test_a_flag_of_none_was_not_given(self, desk: Desk):
        desk.write("arca.toml", "seed = 2\n")
        assert desk.resolve(seed=None).seed == 2

    def test_a_flag_of_zero_or_false_was_given(self, desk: Desk):
        desk.write("arca.toml", "seed = 2\nforce = true\n")
        found = desk.resolve(seed=0, force=False)
        assert (found.seed, found.force) == (0, False)

    def test_the_real_environment_and_working_directory_are_the_defaults(self, desk, monkeypatch):
        desk.write("arca.toml", "groups = 3\n")
        monkeypatch.chdir(desk.cwd)
        monkeypatch.setenv("ARCA_DIAG_SEED", "5")
        found = resolve({"run": desk.run})
        assert (found.groups, found.seed) == (3, 5)

    def test_nothing_said_is_the_defaults(self, desk: Desk):
        found = desk.resolve({"HOME": "/root", "ARCA_SEED": "5"})
        assert found == ScanConfig(run=desk.run)
        assert (found.epsilon, found.sharpening, found.credit) == (1e-8, 1.0, None)
        assert (found.groups, found.fixed_groups, found.checkpoints) == (16, 32, "all")
        assert found.temperature is None


class TestFiles:
    def test_keys_may_be_written_with_hyphens(self, desk: Desk):
        desk.write("arca.toml", "fixed-groups = 4\n")
        assert desk.resolve().fixed_groups == 4

    def test_a_pyproject_without_our_table_says_nothing(self, desk: Desk):
        desk.write("pyproject.toml", "[project]\nname = 'x'\n[tool.ruff]\nseed = 7\n")
        assert desk.resolve().seed == 0

    def test_the_gates_table_is_left_to_the_gate(self, desk: Desk):
        desk.write("arca.toml", "seed = 2\n[gate]\nfail-on = ['sparse']\n")
        desk.write("pyproject.toml", "[tool.arca-diag.gate]\nfail-on = ['sparse']\n")
        assert desk.resolve().seed == 2

    @pytest.mark.parametrize("inside", [".", "logs", "logs/deep"])
    @pytest.mark.parametrize("name", ["arca.toml", "pyproject.toml"])
    def test_inside_the_run_no_file_is_read(self, desk: Desk, inside, name):
        cwd = desk.run / inside
        cwd.mkdir(parents=True, exist_ok=True)
        desk.write(name, "seed = 2\n[tool.arca-diag]\nseed = 2\n", cwd)
        assert desk.resolve(cwd=cwd).seed == 0

    def test_inside_the_run_the_environment_and_flags_still_count(self, desk: Desk):
        found = desk.resolve({"ARCA_DIAG_SEED": "3"}, cwd=desk.run, groups=2)
        assert (found.seed, found.groups) == (3, 2)

    def test_a_link_into_the_run_is_inside_the_run(self, desk: Desk):
        desk.write("arca.toml", "seed = 2\n", desk.run)
        link = desk.cwd / "link"
        link.symlink_to(desk.run, target_is_directory=True)
        assert desk.resolve(cwd=link).seed == 0

    def test_beside_the_run_the_runs_own_file_is_not_read(self, desk: Desk):
        desk.write("arca.toml", "seed = 2\n", desk.run)
        assert desk.resolve().seed == 0

    def test_above_the_run_a_file_is_read(self, desk: Desk):
        desk.write("arca.toml", "seed = 2\n", desk.run.parent)
        assert desk.resolve(cwd=desk.run.parent).seed == 2

    @pytest.mark.parametrize("name", ["arca.toml", "pyproject.toml"])
    @pytest.mark.parametrize("text", [b"seed = \n", b"seed = '\xff'\n"], ids=["syntax", "bytes"])
    def test_a_file_that_is_no_toml_is_the_users_to_mend(self, desk: Desk, name, text):
        desk.write(name, text)
        assert f"{name} is not valid TOML" in str(desk.refused())

    @pytest.mark.parametrize("text", ["tool = 3\n", "[tool]\narca-diag = 3\n"])
    def test_a_value_where_our_table_should_be_is_the_users_to_mend(self, desk: Desk, text):
        desk.write("pyproject.toml", text)
        assert "pyproject.toml" in str(desk.refused())


class TestUnknownKeys:
    def test_in_a_file_it_is_named_with_its_nearest(self, desk: Desk):
        desk.write("arca.toml", "epsilom = 1.0\n")
        error = desk.refused()
        assert str(error) == "unknown key 'epsilom' in arca.toml"
        assert error.hint == "did you mean epsilon?"

    def test_in_pyproject_the_file_is_named(self, desk: Desk):
        desk.write("pyproject.toml", "[tool.arca-diag]\nsede = 1\n")
        assert str(desk.refused()) == "unknown key 'sede' in pyproject.toml"

    def test_in_the_environment_it_is_named_with_its_nearest(self, desk: Desk):
        error = desk.refused({"ARCA_DIAG_SHARPNING": "2"})
        assert str(error) == "unknown key ARCA_DIAG_SHARPNING in environment"
        assert error.hint == "did you mean ARCA_DIAG_SHARPENING?"

    def test_what_is_of_the_gate_is_told_where_it_stands(self, desk: Desk):
        error = desk.refused({"ARCA_DIAG_PROFILE": "strict"})
        assert "unknown key ARCA_DIAG_PROFILE" in str(error)
        assert "begin with ARCA_DIAG_GATE_" in error.hint
        desk.write("arca.toml", 'profile = "strict"\n')
        assert "below [gate]" in desk.refused().hint
        desk.write("arca.toml", "[gates]\nmin-clusters = 9\n")
        assert desk.refused().hint == "did you mean gate?"

    def test_among_the_flags_it_is_refused_too(self, desk: Desk):
        assert str(desk.refused(speed=1)) == "unknown key 'speed' in flag"

    def test_without_a_near_one_all_are_listed(self, desk: Desk):
        hint = desk.refused({"ARCA_DIAG_QQQ": "1"}).hint
        assert hint.startswith("known keys: ARCA_DIAG_BASE, ARCA_DIAG_ROLLOUTS, ")
        assert all(name.upper() in hint for name in ScanConfig.model_fields if name != "run")

    @pytest.mark.parametrize("place", ["file", "environment"])
    def test_the_run_is_named_on_the_command_line_only(self, desk: Desk, place):
        if place == "file":
            desk.write("arca.toml", "run = '/elsewhere'\n")
            error = desk.refused()
        else:
            error = desk.refused({"ARCA_DIAG_RUN": "/elsewhere"})
        key = "'run'" if place == "file" else "ARCA_DIAG_RUN"
        assert f"unknown key {key}" in str(error)


class TestValues:
    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("epsilon", "-1e-9", "greater than or equal to 0"),
            ("sharpening", "0", "greater than 0"),
            ("temperature", "0", "greater than or equal to 0.001"),
            ("groups", "0", "greater than or equal to 1"),
            ("fixed_groups", "-1", "greater than or equal to 0"),
            ("window", "-1", "greater than or equal to 0"),
            ("batch_tokens", "0", "greater than or equal to 1"),
            ("seed", "x", "valid integer"),
            ("credit", "salience", "give uniform, surprisal, "),
            ("credit", "residuals", "did you mean residual? give "),
            ("credit", "top_entropy", "did you mean top_entropy:Q? give "),
            ("credit", "top_entropy:", "or top_entropy:Q with Q from 0 to 1"),
            ("credit", "top_entropy:1.5", "Q from 0 to 1"),
            ("credit", "top_entropy:-0.1", "Q from 0 to 1"),
            ("credit", "top_entropy:nan", "Q from 0 to 1"),
            ("credit", "top_entropy:a fifth", "Q from 0 to 1"),
            ("dtype", "int8", "'float32'"),
            ("device", "tpu", "'cuda'"),
            ("checkpoints", "10,,30", "give all, last, or steps with commas between"),
            ("force", "perhaps", "valid boolean"),
        ],
    )
    def test_one_out_of_range_is_named_with_its_source_its_range_and_itself(
        self, desk: Desk, key, value, said
    ):
        error = desk.refused({f"ARCA_DIAG_{key.upper()}": value})
        assert str(error).startswith(f"{key.replace('_', '-')} (from environment): ")
        assert said in str(error)
        assert str(error).endswith(f"found {value!r}")
        assert "--help" in error.hint

    def test_the_source_named_is_the_one_that_won(self, desk: Desk):
        desk.write("pyproject.toml", "[tool.arca-diag]\nepsilon = 1.0\n")
        desk.write("arca.toml", "epsilon = -1.0\n")
        assert str(desk.refused()).startswith("epsilon (from arca.toml): ")
        assert str(desk.refused(epsilon=-2.0)).startswith("epsilon (from flag): ")
        assert desk.resolve(epsilon=2.0).epsilon == 2.0

    @pytest.mark.parametrize(
        ("key", "value"),
        [("epsilon", 0.0), ("fixed_groups", 0), ("window", 0), ("groups", 1), ("batch_tokens", 1)],
    )
    def test_the_edge_of_a_range_belongs_to_it(self, desk: Desk, key, value):
        assert getattr(desk.resolve(**{key: value}), key) == value

    @pytest.mark.parametrize("key", ["epsilon", "sharpening", "temperature"])
    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_finite_is_refused(self, desk: Desk, key, value):
        assert str(desk.refused(**{key: value})).startswith(f"{key} (from flag): ")

    @pytest.mark.parametrize("key", ["epsilon", "sharpening"])
    def test_infinity_is_told_to_be_finite(self, desk: Desk, key):
        desk.write("arca.toml", f"{key} = inf\n")
        assert "must be a finite number, found inf" in str(desk.refused())

    @pytest.mark.parametrize("value", ["all", "last", "10", "10,30", "10, 30"])
    def test_checkpoints_are_a_word_or_steps(self, desk: Desk, value):
        assert desk.resolve(checkpoints=value).checkpoints == value

    def test_the_config_is_frozen(self, desk: Desk):
        with pytest.raises(ValidationError, match="frozen"):
            desk.resolve().seed = 1


class TestOptionLists:
    def test_every_option_named_exists(self):
        assert set(JUDGING) | set(REPLAY) <= set(ScanConfig.model_fields)

    def test_an_option_judges_or_replays_never_both(self):
        assert not set(JUDGING) & set(REPLAY)

    def test_what_is_never_compared_is_in_neither(self):
        rest = set(ScanConfig.model_fields) - set(JUDGING) - set(REPLAY)
        rest -= {"thresholds"}  # in parts: see `thresholds_of`
        passes = {
            "batch_tokens",
            "no_prefix_sharing",
            "no_cache",
            "cache_dir",
            "cache_gib",
            "shard",
        }
        assert (
            rest == {"run", "checkpoints", "out", "force", "allow_download", "no_render"} | passes
        )


class TestCredit:
    @pytest.mark.parametrize("value", ["uniform", *SIGNAL_NAMES])
    def test_uniform_and_every_signal_can_be_the_credit(self, desk: Desk, value):
        assert desk.resolve(credit=value).credit == value
        assert set(CREDITS) == {"uniform", *SIGNAL_NAMES}

    @pytest.mark.parametrize(
        ("value", "share"),
        [
            ("0.2", "0.2"),
            ("0.20", "0.2"),
            (".2", "0.2"),
            ("2e-1", "0.2"),
            ("1", "1.0"),
            ("0", "0.0"),
        ],
    )
    def test_one_share_of_top_entropy_has_one_spelling(self, desk: Desk, value, share):
        assert desk.resolve(credit=f"top_entropy:{value}").credit == f"top_entropy:{share}"


class TestThresholds:
    def test_a_table_gives_cuts_other_values(self, desk: Desk):
        desk.write("arca.toml", "[thresholds]\ngini-sparse = 0.9\ntokens-short = 6\n")
        found = desk.resolve()
        assert dict(found.thresholds) == {"gini-sparse": 0.9, "tokens-short": 6.0}
        values = {cut.id: cut.value for cut in found.cuts}
        default = {cut.id: cut.value for cut in DEFAULT}
        assert values == default | {"gini-sparse": 0.9, "tokens-short": 6.0}

    def test_in_pyproject_too_and_the_nearer_file_wins_cut_by_cut(self, desk: Desk):
        desk.write(
            "pyproject.toml",
            "[tool.arca-diag.thresholds]\ngini-sparse = 0.9\ntokens-short = 6\n",
        )
        desk.write("arca.toml", "[thresholds]\ntokens-short = 7\n")
        assert dict(desk.resolve().thresholds) == {"gini-sparse": 0.9, "tokens-short": 7.0}

    def test_without_a_table_they_are_the_defaults(self, desk: Desk):
        assert list(desk.resolve().cuts) == list(DEFAULT)

    def test_the_runs_own_table_is_not_read(self, desk: Desk):
        desk.write("arca.toml", "[thresholds]\ngini-sparse = 0.9\n", desk.run)
        assert list(desk.resolve(cwd=desk.run).cuts) == list(DEFAULT)

    def test_an_unknown_id_is_named_with_its_nearest(self, desk: Desk):
        desk.write("arca.toml", "[thresholds]\ngini_sparse = 0.9\n")
        error = desk.refused()
        assert str(error) == "unknown threshold 'gini_sparse'"
        assert error.hint == "did you mean gini-sparse?"

    def test_without_a_near_one_all_are_listed(self, desk: Desk):
        desk.write("arca.toml", "[thresholds]\nqqq = 0.9\n")
        assert all(cut.id in desk.refused().hint for cut in DEFAULT)

    @pytest.mark.parametrize(
        "value", ["'0.9'", "true", "nan", "inf", "-inf", "-0.1", "[0.9]", "1" + "0" * 400]
    )
    def test_what_is_no_finite_number_is_refused(self, desk: Desk, value):
        desk.write("arca.toml", f"[thresholds]\ngini-sparse = {value}\n")
        error = desk.refused()
        assert str(error).startswith("threshold gini-sparse: must be a finite number >= 0, found ")
        assert len(str(error)) < 200
        assert "explain gini-sparse" in error.hint

    @pytest.mark.parametrize("text", ["thresholds = 0.9\n", "thresholds = ['gini-sparse']\n"])
    def test_what_is_no_table_is_refused(self, desk: Desk, text):
        desk.write("arca.toml", text)
        assert "thresholds is not a table of ids and numbers" in str(desk.refused())
        assert "[thresholds]" in desk.refused().hint

    def test_nor_is_it_one_in_the_environment(self, desk: Desk):
        error = desk.refused({"ARCA_DIAG_THRESHOLDS": "gini-sparse=0.9"})
        assert "thresholds is not a table" in str(error)

    @pytest.mark.parametrize(
        ("name", "value", "other"),
        [
            ("gini-sparse", 0.5, "gini-leaning-sparse"),
            ("gini-uniform", 0.3, "gini-leaning-uniform"),
            ("effn-uniform", 0.8, "effn-leaning-uniform"),
            ("effn-sparse", 0.5, "effn-leaning-sparse"),
            ("effn-leaning-uniform", 0.1, "effn-leaning-sparse"),
        ],
    )
    def test_classes_that_would_overlap_are_refused(self, desk: Desk, name, value, other):
        desk.write("arca.toml", f"[thresholds]\n{name} = {value}\n")
        error = desk.refused()
        assert name in str(error)
        assert other in str(error)
        assert "overlap" in str(error)

    def test_the_default_value_given_is_no_other_value(self, desk: Desk):
        desk.write("arca.toml", "[thresholds]\ngini-sparse = 0.85\nkl-at-start = 0.5\n")
        found = desk.resolve()
        assert found.thresholds_of(OF_TABLES) is None
        assert found.thresholds_of(OF_FILES) == {"kl-at-start": 0.5}

    def test_they_are_frozen(self, desk: Desk):
        given = {"gini-sparse": 0.9}
        found = ScanConfig(run=desk.run, thresholds=given)
        given["gini-sparse"] = 0.95
        assert found.cuts["gini-sparse"] == 0.9
        with pytest.raises(TypeError):
            found.thresholds["gini-sparse"] = 0.95
