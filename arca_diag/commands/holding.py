"""From what the command line names to a report, its policy, and what lies on disk beside it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from arca_diag.commands.scanning import RESULT, check_whole, resolved_config, runs_of
from arca_diag.config import Resolved as ResolvedConfig
from arca_diag.config_sources import config_tables, gate_environment
from arca_diag.errors import ArcaError, ResultError
from arca_diag.gate.checks import OnDisk
from arca_diag.gate.freshness import look_beside
from arca_diag.gate.loading import Resolved, resolve_policy
from arca_diag.gate.reading import REPORT, is_result, read_result, result_at
from arca_diag.gate.wholeness import check_told
from arca_diag.progress import Progress
from arca_diag.results import Report
from arca_diag.terminal import shown, stderr
from arca_diag.thresholds import OF_FILES

if TYPE_CHECKING:  # pandas takes half a second, and the gate seldom needs a table
    from arca_diag.tables import Tables

_OF_TABLES = ("epsilon", "sharpening", "seed", "thresholds")


@dataclass(frozen=True, kw_only=True)
class Held:
    """What is to be gated.

    Attributes:
        report: Judged as asked.
        credit: What the run trains with, where that was said anew.
        disk: What lies beside the result.
    """

    report: Report
    credit: str | None
    disk: OnDisk


def policy_of(target: Path, flags: Mapping[str, Any], file: Path | None) -> Resolved:
    """The policy: of the working directory or of a named file, never of the run or its result."""
    runs = [target, *runs_of(target)]
    layers = [
        *((name, t["gate"]) for name, t in config_tables(file, None, runs) if "gate" in t),
        ("environment", gate_environment()),
        ("flag", {key: value for key, value in flags.items() if value is not None}),
    ]
    return resolve_policy(layers)


def hold(target: Path, judging: Mapping[str, Any], file: Path | None, progress: Progress) -> Held:
    """The report of a result folder, or that of a run, which is scanned only if it has none.

    A run's result is gated as it is, without a model: one that is of other files than the run has
    now is no reason to scan, for that would replace it. A scan adds what is missing: all of it,
    or checkpoints that are asked for and are not in it.

    Args:
        target: A result folder, a report, or a run.
        judging: Judging options that were given.
        file: The configuration file that was named, if one was.
        progress: Of a scan.
    """
    asked = resolved_config({"run": target, **judging}, file)
    if is_result(target):
        folder, report = read_result(target)
        return _judged(folder, report, asked, look_beside(folder, report))
    progress.stage("reading the run")
    from arca_diag.inputs.runs import find_run, select_checkpoints

    run = find_run(target)
    folder = asked.config.out or run.root / RESULT
    if (folder / REPORT).is_file() and not asked.config.force:
        _, before = read_result(folder)
        there = {c.name for c in before.run.checkpoints}
        grown = any(c.name not in there for c in select_checkpoints(run, asked.config.checkpoints))
        disk = look_beside(folder, before, run.root, growing=grown)
        if disk.stale or disk.foreign or not grown:
            return _judged(folder, before, asked, disk)
    check_whole(asked.config)
    from arca_diag.pipeline import diagnose  # torch: seconds, so only where a model is needed

    try:
        done = diagnose(asked.config, progress)
    except ArcaError as error:
        scan = f"arca-diag scan {shown(target)}"
        more = f"`{scan}` has an option for it (--base and others), and its result can be gated"
        error.hint = f"{error.hint}; {more}" if error.hint else more
        raise
    assert done.report is not None, "no share was asked for"
    return Held(report=done.report, credit=None, disk=OnDisk(compared=True))


def saved_as_asked(
    target: Path, judging: Mapping[str, Any], file: Path | None
) -> tuple[Path, Report, "Tables"]:
    """A saved result and its tables, judged again in memory where options ask for it.

    Args:
        target: A result folder, a report, or a run that has one.
        judging: Judging options that were given.
        file: The configuration file that was named, if one was.

    Raises:
        ResultError: There is no finished result, or its tables are not its own.
    """
    asked = resolved_config({"run": target, **judging}, file)
    folder, report = read_result(result_at(target))
    check_told(folder, report)
    other, given, credit = _differing(folder, report, asked)
    if credit is not None and credit != report.provenance.options.get("credit"):
        other.append("credit")
    if not other:
        from arca_diag.saved import read_tables

        return folder, report, read_tables(folder, report)
    _tell_again(other)
    from arca_diag.rejudging import judged_with

    return (folder, *judged_with(folder, report, asked.config, given, credit))


def _judged(folder: Path, report: Report, asked: ResolvedConfig, disk: OnDisk) -> Held:
    """The report under the judging options that were given; its tables are read only if need be.

    Which signal is the run's credit needs no table: verdicts are the same whatever it is.
    """
    other, given, credit = _differing(folder, report, asked)
    before = str(report.provenance.options.get("credit"))
    if credit is not None and credit != before and (":" in credit or ":" in before):
        other.append("credit")  # TRL's top_entropy has findings of its own
    if not other:
        return Held(report=report, credit=credit, disk=disk)
    _tell_again(other)
    from arca_diag.rejudging import judged_with

    again, _ = judged_with(folder, report, asked.config, given, credit)
    return Held(report=again, credit=None, disk=disk)


def _differing(
    folder: Path, report: Report, asked: ResolvedConfig
) -> tuple[list[str], set[str], str | None]:
    """What is asked to be judged otherwise, credit aside; what was given at all; and the credit."""
    options, config = report.provenance.options, asked.config
    if "thresholds" in asked.origins:
        saved = options.get("file_thresholds")
        if config.thresholds_of(OF_FILES) != saved:
            raise ResultError(
                f"{folder} was judged by other cuts of adapter, log or replay check than "
                "[thresholds] gives",
                hint="scan again with --force: those cuts are applied while the run is read",
            )
    given = {key for key in _OF_TABLES if key in asked.origins}
    credit = config.credit if "credit" in asked.origins else None
    now = {key: getattr(config, key) for key in given - {"thresholds"}}
    other = [key for key, value in now.items() if options.get(key) != value]
    if "thresholds" in given:
        from arca_diag.thresholds import OF_TABLES

        cuts, saved = (config.thresholds_of(OF_TABLES) or {}, options.get("thresholds") or {})
        other += [cut for cut in sorted({*cuts, *saved}) if cuts.get(cut) != saved.get(cut)]
    return other, given, credit


def _tell_again(other: Iterable[str]) -> None:
    told = f"judging the saved tables again, for other {', '.join(other)} than the result's"
    stderr().print(Text(told), soft_wrap=True)
