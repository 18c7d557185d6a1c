"""Where a policy comes from: flag > environment ARCA_DIAG_GATE_* > file > profile.

The file is `[gate]` of `arca.toml` or `[tool.arca-diag.gate]` of `pyproject.toml`. Everything
that nothing reads is an error with the nearest name: a rule that a typo turned off would pass.
"""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError

from arca_diag.config_sources import GATE_PREFIX
from arca_diag.degeneracy import DEGENERATE
from arca_diag.errors import ConfigError
from arca_diag.gate.names import (
    CHECK_IDS,
    FIGURES,
    FINDING_IDS,
    REGIME_IDS,
    SIGNAL_IDS,
    SIGNALS,
    check_keys,
    unknown,
)
from arca_diag.gate.policy import Kind, Policy, Rule, RuleLevel, Suppression, relative_part
from arca_diag.gate.profiles import PROFILES, ProfileName, rules_of, settings_of

#: Keys of the table; `credit` is an option of its own, for a scan reads it too.
_SETTINGS = tuple(
    name for name in Policy.model_fields if name not in ("rules", "suppressions", "credit")
)
_LEVELS: tuple[str, ...] = get_args(RuleLevel)
_OF_RULES = (
    "finding",
    "measurement",
    "level",
    "max",
    "min",
    "max_increase",
    "max_decrease",
    "aggregate",
    "signals",
    "regimes",
    "view",
    "against",
)
_NOT_FIELDS = ("finding", "measurement", "signals", "regimes")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_BOUNDS = ("max", "min", "max_increase", "max_decrease")


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """A policy and where each of its parts came from.

    Attributes:
        policy: In force.
        origins: Name of a setting, or `rules.ID`, or `suppressions.N` -> "profile recommended",
            "default", the file's name, "environment" or "flag".
        file: Name of the file that says something of the gate, as it was given; None without one.
    """

    policy: Policy
    origins: Mapping[str, str]
    file: str | None = None

    def written_in(self, rule: str) -> str | None:
        """The file that wrote a rule out; None for a profile's own."""
        origin = self.origins.get(f"rules.{rule}", "")
        return None if origin.startswith("profile ") else origin or None


def resolve_policy(layers: Iterable[tuple[str, Mapping[str, Any]]]) -> Resolved:
    """Merge layers, lowest first, over the profile that the highest of them names.

    Args:
        layers: Name of the origin, and its table of the gate as TOML has it. Values of
            "environment" may be text where a number is meant.

    Raises:
        ConfigError: A key, an id, a level or a value that there is not; a suppression without
            reason or expiry; or no rule is left.
    """
    tables = [(origin, _plain_keys(table, origin)) for origin, table in layers]
    for origin, table in tables:
        check_keys(table, (*_SETTINGS, "rules", "suppressions"), _where(origin))
    profile: ProfileName = "recommended"
    for origin, table in tables:
        if "profile" in table:
            if table["profile"] not in PROFILES:
                raise unknown("profile", table["profile"], PROFILES, _where(origin))
            profile = table["profile"]

    settings = settings_of(profile)
    origins = dict.fromkeys(_SETTINGS, "default")
    origins |= dict.fromkeys(settings.keys() - {"profile"}, f"profile {profile}")
    rules = rules_of(profile)
    origins |= {f"rules.{name}": f"profile {profile}" for name in rules}
    suppressions: list[Suppression] = []
    for origin, table in tables:
        where = _where(origin)
        for key, value in table.items():
            if key == "rules":
                found = _rules(value, where)
                rules |= found
                origins |= {f"rules.{name}": origin for name in found}
            elif key == "suppressions":
                new = _suppressions(value, where)
                numbers = range(len(suppressions), len(suppressions) + len(new))
                origins |= {f"suppressions.{number}": origin for number in numbers}
                suppressions += new
            else:
                settings[key] = _setting(key, value, origin)
                origins[key] = origin
    _check_ids(settings, rules, suppressions, origins)
    try:
        policy = Policy(**settings, rules=rules, suppressions=tuple(suppressions))
    except ValidationError as error:
        raise _refused(error, origins) from None
    files = [origin for origin, _ in tables if origin not in ("environment", "flag")]
    return Resolved(policy=policy, origins=origins, file=files[-1] if files else None)


def _where(origin: str) -> str:
    """Where a value stands, in words."""
    words = {"flag": "the command line", "environment": f"the environment ({GATE_PREFIX}*)"}
    return f"{origin} [gate]" if origin.endswith(".toml") else words.get(origin, origin)


def _spelled(key: str) -> str:
    """A key as the documentation writes it."""
    return key.replace("_", "-")


def _plain_keys(table: object, origin: str) -> dict[str, Any]:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{origin}: gate is not a table", hint="write [gate] and keys below it")
    out: dict[str, Any] = {}
    for key, value in table.items():
        plain = str(key).replace("-", "_")
        if plain in out:
            raise ConfigError(f"{origin}: {key!r:.80} is given twice, with - and with _")
        out[plain] = value
    return out


def _setting(key: str, value: Any, origin: str) -> Any:
    """A setting's value; lists may be written with commas, and a checkpoint as digits."""
    if key in ("select", "ignore"):
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(p, str) for p in parts):
            raise ConfigError(f"{_where(origin)}: {key} is not a list of ids")
        return tuple(p.strip() for p in parts if p.strip())
    if key == "baseline" and isinstance(value, str) and (not value or "\0" in value):
        raise ConfigError(f"{_where(origin)}: baseline is no file's name: {value!r:.50}")
    if key == "checkpoint":
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ConfigError(f"{_where(origin)}: checkpoint is no step or name: {value!r:.50}")
        if isinstance(value, str) and value.isascii() and value.isdigit():
            return int(value) if len(value) < 20 else value
    if key in ("min_clusters", "min_tokens") and origin != "environment" and type(value) is not int:
        raise ConfigError(f"{_where(origin)}: {key} is not a whole number: {value!r:.50}")
    return value


def _rules(table: object, where: str) -> dict[str, Rule]:
    if not isinstance(table, Mapping):
        raise ConfigError(
            f"{where}: rules is not a table",
            hint='write [gate.rules], and below it lines such as "adapter-inert" = "error"',
        )
    return {
        str(name): _rule(str(name), value, f"{where} rule {name!r:.80}")
        for name, value in table.items()
    }


def _rule(name: str, value: object, where: str) -> Rule:
    """One rule: a level alone, or a table."""
    if isinstance(value, str):
        value = {"level": value}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: neither a level nor a table: {value!r:.80}")
    given = _plain_keys(value, where)
    check_keys(given, _OF_RULES, where)
    kind, of = _subject(name, given, where)
    if given.get("level", "error") not in _LEVELS:
        raise unknown("level", given["level"], _LEVELS, where)
    _check_signals(given.get("signals", "all"), where)
    if "regimes" in given:
        _check_regimes(given["regimes"], of, where)
    unread = _unread(kind, of, given)
    if unread:
        raise ConfigError(
            f"{where}: {_spelled(unread)} says nothing here: {of} is "
            + (
                "one of the gate's own checks" if kind == "check" else "of the run, not of a signal"
            ),
            hint="a rule on it has a level" + ("" if kind == "check" else " and an aggregate"),
        )
    bounds = [key for key in _BOUNDS if key in given]
    off = given.get("level") == "off"
    if kind != "measurement" and (bounds or "against" in given):
        raise ConfigError(
            f"{where}: {_spelled([*bounds, 'against'][0])} is for a figure, and this is a {kind}",
            hint='name the figure: measurement = "gini_corrected", say',
        )
    if kind == "measurement" and not bounds and not off:
        raise ConfigError(
            f"{where}: a figure needs a bound",
            hint=f"give one of {', '.join(map(_spelled, _BOUNDS))}",
        )
    if kind == "measurement" and given.get("level") in ("as-found", "at-most-warn"):
        raise ConfigError(f"{where}: a figure has no level of its own: give error, warn or note")
    try:
        for key in ("max_increase", "max_decrease"):
            if key in given:
                relative_part(_number_or_text(given[key]))
        signals = given.get("signals", "all")
        return Rule(
            kind=kind,
            of=of,
            **{k: v for k, v in given.items() if k not in _NOT_FIELDS},
            signals=tuple(signals) if isinstance(signals, list) else signals,
            regimes=tuple(given.get("regimes", ())),
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:1])
        raise ConfigError(
            f"{where}: {_spelled(key)}: {first['msg']}, found {first['input']!r:.80}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None


def _unread(kind: Kind, of: str, given: Mapping[str, Any]) -> str | None:
    """A key of a rule that nothing would read."""
    never = {"check": ("aggregate", "signals", "view"), "finding": ("signals", "view")}
    if kind == "finding" and of in SIGNAL_IDS:
        return None
    return next((key for key in never.get(kind, ()) if key in given), None)


def _number_or_text(value: object) -> float | str:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f'give a number, or a percentage such as "20%", found {value!r:.50}')
    return value


def _subject(name: str, given: Mapping[str, Any], where: str) -> tuple[Kind, str]:
    """What a rule is of: its id says so, or `finding` or `measurement` does."""
    subjects: tuple[Kind, ...] = ("finding", "measurement")
    named = [key for key in subjects if key in given]
    known: dict[str, Kind] = {
        **dict.fromkeys(FIGURES, subjects[1]),
        **dict.fromkeys(FINDING_IDS, subjects[0]),
    }
    known |= dict.fromkeys(CHECK_IDS, "check")
    if not named:
        if name not in known:
            raise unknown("id", name, known, where)
        return known[name], name
    if len(named) == 2:
        raise ConfigError(f"{where}: finding and measurement are both given")
    kind, of = named[0], given[named[0]]
    choices = FINDING_IDS if kind == "finding" else FIGURES
    if of not in choices:
        raise unknown(kind, of, choices, where)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{where}: a rule's name has letters, digits, hyphens, dots and underscores alone",
            hint="for example surprisal-gini",
        )
    if name in known and name != of:
        raise ConfigError(
            f"{where}: this is the name of a {known[name]}, and the rule is of {of}",
            hint="give the rule another name",
        )
    return kind, str(of)


def _check_signals(signals: object, where: str) -> None:
    if isinstance(signals, str):
        if signals in SIGNALS:
            raise ConfigError(f"{where}: signals is no list", hint=f'write signals = ["{signals}"]')
        if signals not in ("all", "declared"):
            raise unknown("signals", signals, ("all", "declared"), where)
        return
    if not isinstance(signals, list) or not signals:
        raise ConfigError(f'{where}: signals is neither "all", "declared" nor a list of names')
    for signal in signals:
        if signal not in SIGNALS:
            raise unknown("signal", signal, SIGNALS, where)


def _check_regimes(regimes: object, of: str, where: str) -> None:
    known = [regime for regime, found in DEGENERATE.items() if found == of]
    if not known:
        raise ConfigError(
            f"{where}: regimes says nothing here: {of} is no finding on regimes",
            hint=f"a rule on {', '.join(REGIME_IDS)} can have it",
        )
    if not isinstance(regimes, list) or not regimes:
        raise ConfigError(f"{where}: regimes is not a list", hint=f'for example ["{known[0]}"]')
    for regime in regimes:
        if regime not in known:
            raise unknown("regime", regime, known, where)


def _suppressions(value: object, where: str) -> list[Suppression]:
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ConfigError(
            f"{where}: suppressions is not a list of tables",
            hint="write [[gate.suppressions]], and below it id, reason and expires",
        )
    out = []
    for number, item in enumerate(value, 1):
        at = f"{where} suppression {number}"
        given = _plain_keys(item, at)
        check_keys(given, tuple(Suppression.model_fields), at)
        missing = [key for key in ("id", "reason", "expires") if not given.get(key)]
        if missing or not isinstance(given["reason"], str) or not given["reason"].strip():
            raise ConfigError(
                f"{at}: {', '.join(missing) or 'reason'} is missing",
                hint='a suppression has an id, a reason = "...", and expires = 2026-12-31',
            )
        expires = given["expires"]
        if isinstance(expires, str):
            try:
                given["expires"] = datetime.date.fromisoformat(expires)
            except ValueError:
                expires = None
        if isinstance(expires, datetime.datetime) or not isinstance(
            given["expires"], datetime.date
        ):
            raise ConfigError(f"{at}: expires is no date such as 2026-12-31")
        if given.get("signal") not in (None, *SIGNALS):
            raise unknown("signal", given["signal"], SIGNALS, at)
        if "checkpoint" in given:
            given["checkpoint"] = _setting("checkpoint", given["checkpoint"], at)
        try:
            out.append(Suppression(**given))
        except ValidationError as error:
            first = error.errors()[0]
            raise ConfigError(f"{at}: {first['loc'][0]}: {first['msg']}") from None
    return out


def _check_ids(
    settings: Mapping[str, Any],
    rules: Mapping[str, Rule],
    suppressions: Iterable[Suppression],
    origins: Mapping[str, str],
) -> None:
    """Every id that is selected, ignored or suppressed is one of a rule."""
    for key in ("select", "ignore"):
        for name in settings.get(key, ()):
            if name not in rules:
                raise unknown("id", name, rules, f"{key} (from {origins[key]})")
    for number, suppression in enumerate(suppressions):
        if suppression.id not in rules:
            where = f"suppression (from {origins[f'suppressions.{number}']})"
            raise unknown("id", suppression.id, rules, where)


def _refused(error: ValidationError, origins: Mapping[str, str]) -> ConfigError:
    first = error.errors()[0]
    key = str(first["loc"][0]) if first["loc"] else ""
    says = first["msg"].removeprefix("Value error, ")
    if not key:
        return ConfigError(f"the policy: {says}", hint="mend select, ignore or the rules' levels")
    return ConfigError(
        f"{_spelled(key)} (from {origins.get(key, 'default')}): {says}, "
        f"found {first['input']!r:.80}",
        hint="`arca-diag config init` shows every key with its default",
    )
