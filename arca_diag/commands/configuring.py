"""`arca-diag config init` and `config show`: every option with its default, and what holds."""

import inspect
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from rich.text import Text

from arca_diag.commands.holding import policy_of
from arca_diag.commands.output import write_file
from arca_diag.commands.scanning import resolved_config
from arca_diag.config import ScanConfig
from arca_diag.errors import ConfigError
from arca_diag.explanations import EXPLANATIONS
from arca_diag.explanations.gate import CHECKS
from arca_diag.gate.names import FIGURES, SIGNAL_IDS
from arca_diag.gate.policy import Policy, Rule
from arca_diag.gate.profiles import rules_of, settings_of
from arca_diag.report.words import safe
from arca_diag.terminal import fixable_errors, shown, stdout
from arca_diag.thresholds import DEFAULT

FILE = Path("arca.toml")
#: Stands for a run where none is named: no file of the working directory lies in it.
_NO_RUN = Path("RUN")
_HELP = {
    "profile": "recommended, strict or lenient: what holds where nothing is written below",
    "fail_on": "the least level that fails the gate: error, warn or never",
    "inconclusive": "what is not known exits 3 (fail) or 0 (pass)",
    "checkpoint": 'judged: "last", "all", or a step',
    "view": "judged: on-policy or fixed-set",
    "min_clusters": "fewer prompts at a judged checkpoint are inconclusive",
    "min_tokens": "fewer counted tokens at a judged checkpoint are inconclusive",
    "baseline": "file of an accepted result to compare with, from the working directory",
    "select": "only these rules, and the gate's own checks",
    "ignore": "all but these rules",
}
_UNSET = "not set"


def config_app(scan: Callable[..., Any]) -> typer.Typer:
    """The two commands; `scan` is the command whose options the file can set."""
    app = typer.Typer(no_args_is_help=True, help="Write a configuration file, or say what holds.")

    @app.command()
    def init(
        file: Annotated[Path, typer.Argument(help="Where to write it.")] = FILE,
        force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
    ) -> None:
        """Write every option and rule with its default and a comment, all commented out."""
        with fixable_errors():
            if file.exists() and not force:
                raise ConfigError(
                    f"{file} is there already", hint="replace it with --force, or name another file"
                )
            write_file(file, file_text(_help_of(scan)))
            stdout().print(Text(f"{shown(file)} was written: uncomment what you want to change"))

    @app.command()
    def show(
        run: Annotated[
            Path | None, typer.Argument(help="A run: where its folder lies decides what is read.")
        ] = None,
        config: Annotated[
            Path | None, typer.Option(help="File. (default: arca.toml, pyproject.toml here)")
        ] = None,
        profile: Annotated[str | None, typer.Option(help="As `gate --profile`.")] = None,
    ) -> None:
        """Print every value that holds, and where each came from."""
        with fixable_errors():
            lines = _in_force(run or _NO_RUN, config, profile)
            for key, value, origin in lines:
                told = f"{key} = {value}" if key else value
                if value == _UNSET:
                    told = f"# {key}: {_UNSET}"
                stdout().print(
                    Text(safe(f"{told}{f'  # {origin}' if origin else ''}")), soft_wrap=True
                )

    return app


def file_text(option_help: Mapping[str, str]) -> str:
    """The file that `config init` writes: valid TOML whether or not lines are uncommented."""
    lines = [
        "# What arca-diag is asked where no option says it. Uncomment a line to change its value;",
        "# a key that nothing reads is an error. `arca-diag config show` prints what holds.",
        "",
    ]
    for name, field in ScanConfig.model_fields.items():
        if name not in ("run", "thresholds"):
            default = None if field.is_required() else field.default
            lines.append(_line(name.replace("_", "-"), default, option_help.get(name, "")))
    lines += ["", "# Cuts of findings and regimes; `arca-diag explain ID` says what one decides."]
    lines.append("[thresholds]")
    lines += [_line(cut.id, cut.value, f"{cut.comparator}: {cut.source}") for cut in DEFAULT]
    lines += ["", "# What `arca-diag gate` holds a result to.", "[gate]"]
    settings = _settings(Policy(**settings_of("recommended"), rules=rules_of("recommended")))
    lines += [_line(key.replace("_", "-"), settings[key], _HELP[key]) for key in settings]
    lines += [
        "",
        "# Rules: a level (error, warn, note, off, as-found, at-most-warn), or a table. A rule on",
        "# signals that is a level alone, or names none, judges all, whatever the run declares;",
        '# with signals = "declared" its credit alone; regimes = ["sparse"] omits leaning-sparse.',
        "[gate.rules]",
    ]
    says = {e.id: e.says for e in (*EXPLANATIONS, *CHECKS)}
    lines += [_rule(name, rule, says[name]) for name, rule in rules_of("recommended").items()]
    lines += [
        "# A figure of report.json needs a bound: max, min, max-increase, max-decrease; the last",
        '# two need a baseline, and "20%" is relative to it. aggregate: any, all, or last.',
        '# "gini_corrected" = { level = "error", max = 0.85, signals = ["surprisal"] }',
        '# "mean" = { level = "warn", max-increase = "20%", signals = ["surprisal"] }  # score',
        "# The figures, which the README explains:",
        *textwrap.wrap(", ".join(FIGURES), 98, initial_indent="#   ", subsequent_indent="#   "),
        "",
        "# A known fault, let pass until a day (id, reason and expires are needed):",
        "# [[gate.suppressions]]",
        '# id = "layers-dead"',
        '# reason = "the last layers are frozen on purpose"',
        "# expires = 2027-01-31",
        '# signal = "surprisal"  # of one signal alone; checkpoint = 20 likewise',
    ]
    return "\n".join(lines) + "\n"


def _settings(policy: Policy) -> dict[str, Any]:
    return {key: getattr(policy, key) for key in _HELP}


def _line(key: str, value: object, comment: str) -> str:
    note = " ".join(comment.split())
    if value is None:
        return f"# {key} =   # {_UNSET}; {note}" if note else f"# {key} =   # {_UNSET}"
    return f"# {key} = {_toml(value)}" + (f"  # {note}" if note else "")


def _rule(name: str, rule: Rule, says: str) -> str:
    if name not in SIGNAL_IDS:
        return f'# "{name}" = "{rule.level}"  # {says}'
    return f'# "{name}" = {{ level = "{rule.level}", signals = "{rule.signals}" }}  # {says}'


def _toml(value: object) -> str:
    if isinstance(value, list | tuple):
        return json.dumps(value)
    return json.dumps(value if isinstance(value, int | float | str | bool) else str(value))


def _help_of(scan: Callable[..., Any]) -> dict[str, str]:
    """What `scan --help` says of each option."""
    hints = get_type_hints(scan, include_extras=True)
    return {
        name: next((m.help for m in hints[name].__metadata__ if getattr(m, "help", None)), "")
        for name in inspect.signature(scan).parameters
        if hasattr(hints[name], "__metadata__")
    }


def _in_force(run: Path, file: Path | None, profile: str | None) -> list[tuple[str, str, str]]:
    """Key, value and origin of everything, in the order of the file."""
    config = resolved_config({"run": run}, file)
    out = [
        (
            name.replace("_", "-"),
            _shown_value(getattr(config.config, name)),
            config.origins.get(name, "default"),
        )
        for name in ScanConfig.model_fields
        if name not in ("run", "thresholds")
    ]
    out += [("", "", ""), ("", "[thresholds]", "")]
    given = config.config.thresholds
    out += [
        (
            cut.id,
            f"{cut.value:g}",
            config.origins.get("thresholds", "default") if cut.id in given else "default",
        )
        for cut in config.config.cuts
    ]
    found = policy_of(run, {"profile": profile}, file)
    out += [("", "", ""), ("", "[gate]", "")]
    out += [
        (key.replace("_", "-"), _shown_value(value), found.origins[key])
        for key, value in _settings(found.policy).items()
    ]
    out += [("", "", ""), ("", "[gate.rules]", "")]
    for name, rule in found.policy.rules.items():
        asked = rule.model_dump(exclude_defaults=True, exclude={"kind", "of"}, mode="json")
        if name != rule.of:
            asked = {rule.kind: rule.of, **asked}
        told = ", ".join(f"{k.replace('_', '-')} = {_toml(v)}" for k, v in asked.items())
        level = f"level = {_toml(rule.level)}"
        told = told if "level" in asked else ", ".join(p for p in (level, told) if p)
        out.append((f'"{name}"', f"{{ {told} }}", found.origins[f"rules.{name}"]))
    for number, one in enumerate(found.policy.suppressions):
        origin = found.origins[f"suppressions.{number}"]
        out += [("", "", ""), ("", "[[gate.suppressions]]", origin)]
        dumped = one.model_dump(exclude_none=True)
        out += [
            (key, str(value) if key == "expires" else _toml(value), "")
            for key, value in dumped.items()
        ]
    return out


def _shown_value(value: object) -> str:
    return _UNSET if value is None else _toml(value)
