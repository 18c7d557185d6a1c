"""Commands: parse, call, render, exit. No arithmetic, and no torch before a model is needed."""

import logging
import os
import shlex
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files as package_files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from arca_diag import __version__
from arca_diag.config import Device, Dtype, ScanConfig, resolve
from arca_diag.errors import ArcaError
from arca_diag.results import ExitCode

app = typer.Typer(
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
    help="See whether token-level credit signals have collapsed in a LoRA RL run.",
    epilog="Exit codes: 0 did its work, 2 something to mend in what was given, 3 nothing could be "
    "measured, 101 a bug of ours, 130 interrupted.",
)

_RUN = typer.Argument(
    metavar="RUN", help="A training directory, one of its checkpoints, or a bare adapter folder."
)


def _version(asked: bool) -> None:
    if asked:
        _print_raw(f"arca-diag {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """See whether token-level credit signals have collapsed in a LoRA RL run."""


# One alias an option, so that `scan` and `demo` cannot drift apart.
_Base = Annotated[
    str | None,
    typer.Option(help="Base model: folder, hub id or .gguf file. (default: what the adapter says)"),
]
_Rollouts = Annotated[
    Path | None,
    typer.Option(help="Completions: a trainer's folder, or a canonical file. (default: RUN's)"),
]
_Columns = Annotated[
    str | None,
    typer.Option(
        metavar="FIELD=COLUMN,...",
        help="Which columns of --rollouts to read, such as prompt=question,completion=answer.",
    ),
]
_Checkpoints = Annotated[
    str | None, typer.Option(help="all, last, or steps such as 10,30. (default: all)")
]
_Out = Annotated[Path | None, typer.Option(help="Result folder. (default: RUN/arca-diag)")]
_Device = Annotated[Device | None, typer.Option(help="(default: auto: the best there is)")]
_Dtype = Annotated[
    Dtype | None, typer.Option(help="(default: auto: float32 on a CPU, else bfloat16)")
]
_Temperature = Annotated[
    float | None,
    typer.Option(help="Sampling temperature. (default: what the run recorded, else 1)"),
]
_Epsilon = Annotated[float | None, typer.Option(help="Floor added to every score. (default: 1e-8)")]
_Sharpening = Annotated[
    float | None, typer.Option(help="Power s of the scores; figures at 1 too. (default: 1)")
]
_Credit = Annotated[
    str | None,
    typer.Option(
        metavar="uniform|SIGNAL|top_entropy:Q",
        help="The credit the run trained with. (default: what it recorded, else uniform)",
    ),
]
_Groups = Annotated[
    int | None, typer.Option(help="Groups in a checkpoint's own set. (default: 16)")
]
_FixedGroups = Annotated[int | None, typer.Option(help="Groups in the fixed set. (default: 32)")]
_Window = Annotated[
    int | None,
    typer.Option(
        metavar="STEPS",
        help="Farthest step of an own set. (default: a tenth of the run, 2 logging intervals)",
    ),
]
_Seed = Annotated[int | None, typer.Option(help="For resampling only. (default: 0)")]
_BatchTokens = Annotated[
    int | None, typer.Option(metavar="N", help="Padded tokens a batch. (default: by device)")
]
_NoSharing = Annotated[
    bool,
    typer.Option("--no-prefix-sharing", help="Run every completion with a prompt of its own."),
]
_NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Keep passes for this scan alone, beside the result.")
]
_CacheDir = Annotated[
    Path | None,
    typer.Option(help="Where finished passes are kept. (default: arca-diag in the user's cache)"),
]
_CacheGib = Annotated[
    float | None, typer.Option(metavar="N", help="GiB that they may take there. (default: 4)")
]
_Shard = Annotated[
    str | None,
    typer.Option(
        metavar="I/N", help="Run one of N shares of the passes, for `arca-diag merge` to join."
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print report.json, and nothing else.")]
_Force = Annotated[
    bool, typer.Option("--force", help="Replace a result of other inputs or options.")
]
_Redact = Annotated[
    bool, typer.Option("--redact-text", help="Keep prompts, completions and token ids out.")
]
_SkipBad = Annotated[
    bool, typer.Option("--skip-bad-lines", help="Drop the group of a bad line: at most 1%.")
]
_Download = Annotated[
    bool, typer.Option("--allow-download", help="Fetch the base from the hub if it is missing.")
]
_Trust = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run code that the base brings; never one in RUN."),
]
_Reference = Annotated[
    str | None,
    typer.Option(
        metavar="WHICH",
        help="auto, base, adapter-off, ref-adapter, init-adapter, or a folder. (default: auto)",
    ),
]
_Prompts = Annotated[
    Path | None,
    typer.Option(help="For a run without completions: sample some to these prompts (.jsonl, .txt)"),
]
_Generate = Annotated[
    int | None, typer.Option(metavar="N", help="Completions to sample a prompt. (default: 8)")
]
_MaxNewTokens = Annotated[
    int | None,
    typer.Option(metavar="N", help="Longest sampled completion. (default: the run's, else 256)"),
]
_Gradients = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="True gradients of N tokens a checkpoint: a backward pass each. (default: 0)",
    ),
]
_Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more on stderr; -vv for all.")
]


@app.command()
def scan(
    run: Annotated[Path, _RUN],
    base: _Base = None,
    rollouts: _Rollouts = None,
    columns: _Columns = None,
    checkpoints: _Checkpoints = None,
    out: _Out = None,
    device: _Device = None,
    dtype: _Dtype = None,
    temperature: _Temperature = None,
    epsilon: _Epsilon = None,
    sharpening: _Sharpening = None,
    credit: _Credit = None,
    groups: _Groups = None,
    fixed_groups: _FixedGroups = None,
    window: _Window = None,
    seed: _Seed = None,
    batch_tokens: _BatchTokens = None,
    no_prefix_sharing: _NoSharing = False,
    no_cache: _NoCache = False,
    cache_dir: _CacheDir = None,
    cache_gib: _CacheGib = None,
    shard: _Shard = None,
    json: _Json = False,
    force: _Force = False,
    redact_text: _Redact = False,
    skip_bad_lines: _SkipBad = False,
    allow_download: _Download = False,
    trust_remote_code: _Trust = False,
    reference: _Reference = None,
    prompts: _Prompts = None,
    generate: _Generate = None,
    max_new_tokens: _MaxNewTokens = None,
    gradients: _Gradients = None,
    verbose: _Verbose = 0,
) -> None:
    """Replay a run's rollouts under its checkpoints and measure every credit signal."""
    flags = dict(locals())
    as_json, loudness = flags.pop("json"), flags.pop("verbose")
    # A switch that is off is a switch that was not given: environment and file may set it.
    _scan({key: value for key, value in flags.items() if value is not False}, as_json, loudness)


@app.command()
def inspect(
    run: Annotated[Path, _RUN],
    base: _Base = None,
    rollouts: _Rollouts = None,
    columns: _Columns = None,
    checkpoints: _Checkpoints = None,
    temperature: _Temperature = None,
    reference: _Reference = None,
    groups: _Groups = None,
    fixed_groups: _FixedGroups = None,
    window: _Window = None,
    tensors: Annotated[
        bool, typer.Option("--tensors/--no-tensors", help="Look into the adapters' tensors.")
    ] = True,
    json: _Json = False,
    skip_bad_lines: _SkipBad = False,
    verbose: _Verbose = 0,
) -> None:
    """Say what a run holds and what is wrong with it: no model, in seconds."""
    flags = {k: v for k, v in locals().items() if k not in ("tensors", "json", "verbose")}
    with _fixable_errors():
        _say_more(verbose)
        config = _config({key: value for key, value in flags.items() if value is not False})
        with _progress() as progress:
            progress.stage("starting")
            from arca_diag.inspection import inspect_run

            found = inspect_run(config, tensors=tensors, progress=progress)
        if json:
            _print_raw(found.to_json())
        else:
            from arca_diag.report.inspection import print_inspection

            print_inspection(_stdout(), found, _repeated(flags))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Result folder.")] = Path("arca-diag-demo"),
    json: _Json = False,
    verbose: _Verbose = 0,
) -> None:
    """Scan the tiny sample run that ships with the package: offline, always measured anew."""
    _scan({"run": _sample_run(), "out": out, "force": True, "no_cache": True}, json, verbose)


@app.command()
def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="What `scan --shard I/N` left, all N.")
    ],
    out: _Out = None,
    json: _Json = False,
    verbose: _Verbose = 0,
) -> None:
    """Join the shares that `scan --shard I/N` ran into one result, as one scan would give."""
    with _fixable_errors():
        _say_more(verbose)
        with _progress() as progress:
            progress.stage("starting")
            from arca_diag.merging import merge_shards

            diagnosis = merge_shards(folders, out, progress)
        _print(diagnosis, json)


@app.command()
def explain(
    identity: Annotated[
        str | None, typer.Argument(metavar="ID", help="Of a finding, a regime or a threshold.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Print the id of every finding and regime instead.")
    ] = False,
) -> None:
    """Say what a finding or a regime means, how it is measured, by what cuts, and what to do."""
    with _fixable_errors():
        from arca_diag import explanations
        from arca_diag.report.explanation import print_explanation, print_list

        if (identity is None) == (not listed):
            raise ArcaError(
                "explain takes one id, or --list",
                hint="for example `arca-diag explain adapter-inert`",
            )
        if identity is None:
            print_list(_stdout(), explanations.listed(), bare=not sys.stdout.isatty())
        else:
            print_explanation(_stdout(), explanations.explain(identity))


def _scan(flags: dict[str, Any], as_json: bool, loudness: int) -> None:
    with _fixable_errors():
        _say_more(loudness)
        config = _config(flags)
        with _progress() as progress:
            progress.stage("starting")
            # torch takes seconds, so not for --help
            from arca_diag.pipeline import Diagnosis, diagnose
            from arca_diag.together import diagnose_together, team

            members = team()
            diagnosis: Diagnosis | None
            if members:
                diagnosis = diagnose_together(config, members, progress)
            else:
                diagnosis = diagnose(config, progress)
        if diagnosis is not None:  # the first process has it
            _print(diagnosis, as_json)


def _print(diagnosis: Any, as_json: bool) -> None:
    """What a scan found; of a share, where it lies."""
    if diagnosis.report is None:
        said = f"{_shown(diagnosis.folder)}: {diagnosis.did}; join all with `arca-diag merge`"
        _stderr().print(Text(said), soft_wrap=True)
        return
    if diagnosis.did != "measured":
        _stderr().print(Text(f"{diagnosis.folder}: {diagnosis.did}"), soft_wrap=True)
    if as_json:
        _print_raw((diagnosis.folder / "report.json").read_text("utf-8"))
    else:
        from arca_diag.report.console import print_report

        folder = _shown(diagnosis.folder)
        next_command = f"python -m json.tool {folder}/report.json | less"
        print_report(_stdout(), diagnosis.report, folder, next_command)
    if diagnosis.report.status == "nothing-measured":
        raise typer.Exit(ExitCode.NOTHING_MEASURED)


def _config(flags: dict[str, Any]) -> ScanConfig:
    """The configuration, with nothing of it from the run, of which a checkpoint may be named."""
    from arca_diag.inputs.survey import step_folders

    folder = Path(os.path.realpath(flags["run"]))
    return resolve(flags, runs={root for root, _, _ in step_folders(folder)})


def _sample_run() -> Path:
    """The sample in the package; in a checkout, where an editable install lacks it, the tree's."""
    packaged = Path(str(package_files("arca_diag"))) / "sample_runs" / "tiny-addition"
    return (
        packaged if packaged.is_dir() else Path(__file__).parents[1] / "sample_runs/tiny-addition"
    )


def _repeated(flags: dict[str, Any]) -> str:
    """The run and the options that were given, to be given again to another command."""
    words = [str(_shown(flags["run"]))]
    for name, value in flags.items():
        if name != "run" and value is not None and value is not False:
            words.append("--" + name.replace("_", "-"))
            words += [] if value is True else [str(value)]
    return shlex.join(words)


def _shown(path: Path) -> Path:
    """Relative to the working directory where that is shorter to read."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except ValueError:
        return path


class _RichProgress:
    """Progress on stderr: the stage, then how much is done, the rate and the time left."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self.task = bar.add_task("starting", total=None, rate="")
        self.begun = 0.0
        self.given = 0
        self.unit = ""

    def stage(self, name: str) -> None:
        self.bar.update(self.task, description=name, rate="")

    def start(self, total: int, unit: str) -> None:
        self.begun = time.monotonic()
        self.unit = unit
        self.given = 0
        self.bar.update(self.task, total=total, completed=0)

    def reused(self, done: int) -> None:
        # Out of what the bar knows: its rate and time left are those of the work to do.
        self.given += done
        self.bar.update(self.task, total=(self.bar.tasks[0].total or 0) - done)

    def advance(self, done: int) -> None:
        task = self.bar.tasks[0]
        rate = (task.completed + done) / max(time.monotonic() - self.begun, 1e-9)
        of = f"{task.completed + done + self.given:,.0f}/{(task.total or 0) + self.given:,.0f}"
        told = f"{of} {self.unit}, {rate:,.0f}/s"
        self.bar.update(self.task, advance=done, rate=told)


@contextmanager
def _progress() -> Iterator[Any]:
    """Progress on stderr, off where that is no terminal or in CI."""
    from arca_diag.progress import Silent

    console = _stderr()
    if not console.is_terminal or os.environ.get("CI"):
        yield Silent()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield _RichProgress(bar)


def _say_more(loudness: int) -> None:
    """Configure the package's logger and quiet the libraries; only a command may do this."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("arca_diag")
    logger.handlers = [handler]
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(loudness, 2)])
    if loudness == 0:
        # What the libraries warn of is not the user's to mend; -v shows it.
        warnings.filterwarnings("ignore", module=r"(transformers|peft|torch|huggingface_hub)\b")
    if loudness < 2:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TQDM_DISABLE", "1")


def _stdout() -> Console:
    return Console(highlight=False, soft_wrap=False)


def _stay_quiet(console: Console) -> None:
    """What a console does when its reader has gone; Rich itself would exit with 1."""
    console.quiet = True
    _mute_stdout()


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _print_raw(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _mute_stdout()


def _mute_stdout() -> None:
    """Nobody reads any more: let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _fixable_errors() -> Iterator[None]:
    """Turn what a user can mend into a message on stderr and an exit code; bugs pass through."""
    try:
        yield
    except ArcaError as error:
        from arca_diag.report.words import lines

        _stderr().print(Text(lines(f"error: {error}")), soft_wrap=True)
        if error.hint:
            _stderr().print(Text(lines(f"   do: {error.hint}")), soft_wrap=True)
        raise typer.Exit(ExitCode.BAD_INPUT) from None
    except KeyboardInterrupt:
        _stderr().print(Text("interrupted: no finished result was touched"))
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def main() -> None:
    """Entry point of the console script. What gets this far uncaught is our bug."""
    Console.on_broken_pipe = _stay_quiet  # type: ignore[method-assign,assignment]  # Typer's help as well
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception:
        traceback.print_exc()
        sys.exit(ExitCode.BUG)
    finally:
        _print_raw("")  # flushes: a reader that has gone is no error
