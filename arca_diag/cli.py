"""Commands: parse, call, render, exit. No arithmetic, and no torch before a model is needed."""

import errno
import shlex
import sys
import traceback
from importlib.resources import files as package_files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from arca_diag import __version__
from arca_diag.commands.comparing import compare
from arca_diag.commands.configuring import config_app
from arca_diag.commands.gate import (
    Command,
    gate,
    gate_a_scan,
    last_line_on_errors,
    tell_error,
)
from arca_diag.commands.holding import policy_of
from arca_diag.commands.merging import merge, print_diagnosis
from arca_diag.commands.options import Json, NoRender, Out, Verbose
from arca_diag.commands.report import report
from arca_diag.commands.scanning import check_whole, config_of
from arca_diag.config import Device, DeviceMap, Dtype, Quantize
from arca_diag.errors import ArcaError
from arca_diag.results import ExitCode
from arca_diag.terminal import (
    fixable_errors,
    mute_stdout,
    open_streams,
    print_raw,
    progress_bar,
    say_more,
    shown,
    stay_quiet,
    stderr,
    stdout,
)

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
        print_raw(f"arca-diag {__version__}\n")
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
_Device = Annotated[Device | None, typer.Option(help="(default: auto: the best there is)")]
_Dtype = Annotated[
    Dtype | None, typer.Option(help="(default: auto: float32 on a CPU, else bfloat16)")
]
_DeviceMap = Annotated[
    DeviceMap | None,
    typer.Option(help="Lay a base that is larger than one device out over all. (default: no)"),
]
_Quantize = Annotated[
    Quantize | None,
    typer.Option(help="Quantise a 16-bit base when loading it, as QLoRA does. (default: no)"),
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
_FailOn = Annotated[
    str | None,
    typer.Option(
        metavar="error|warn|never",
        help="Gate the result by the policy: exit 1 failed, 3 inconclusive. (default: no gate)",
    ),
]


@app.command()
def scan(
    run: Annotated[Path, _RUN],
    base: _Base = None,
    rollouts: _Rollouts = None,
    columns: _Columns = None,
    checkpoints: _Checkpoints = None,
    out: Out = None,
    device: _Device = None,
    device_map: _DeviceMap = None,
    dtype: _Dtype = None,
    quantize: _Quantize = None,
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
    json: Json = False,
    force: _Force = False,
    no_render: NoRender = False,
    redact_text: _Redact = False,
    skip_bad_lines: _SkipBad = False,
    allow_download: _Download = False,
    trust_remote_code: _Trust = False,
    reference: _Reference = None,
    prompts: _Prompts = None,
    generate: _Generate = None,
    max_new_tokens: _MaxNewTokens = None,
    gradients: _Gradients = None,
    fail_on: _FailOn = None,
    verbose: Verbose = 0,
) -> None:
    """Replay a run's rollouts under its checkpoints and measure every credit signal."""
    flags = dict(locals())
    as_json, loudness = flags.pop("json"), flags.pop("verbose")
    gate_at = flags.pop("fail_on")
    # A switch that is off is a switch that was not given: environment and file may set it.
    given = {key: value for key, value in flags.items() if value is not False}
    _scan(given, as_json, loudness, gate_at)


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
    json: Json = False,
    skip_bad_lines: _SkipBad = False,
    verbose: Verbose = 0,
) -> None:
    """Say what a run holds and what is wrong with it: no model, in seconds."""
    flags = {k: v for k, v in locals().items() if k not in ("tensors", "json", "verbose")}
    with fixable_errors():
        say_more(verbose)
        config = config_of({key: value for key, value in flags.items() if value is not False})
        with progress_bar() as progress:
            progress.stage("starting")
            from arca_diag.inspection import inspect_run

            found = inspect_run(config, tensors=tensors, progress=progress)
        if json:
            print_raw(found.to_json())
        else:
            from arca_diag.report.inspection import print_inspection

            print_inspection(stdout(), found, _repeated(flags))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Result folder.")] = Path("arca-diag-demo"),
    json: Json = False,
    verbose: Verbose = 0,
) -> None:
    """Scan the tiny sample run that ships with the package: offline, always measured anew."""
    _scan({"run": _sample_run(), "out": out, "force": True, "no_cache": True}, json, verbose)


@app.command()
def explain(
    identity: Annotated[
        str | None, typer.Argument(metavar="ID", help="Of a finding, a regime or a threshold.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="Print the id of every finding, regime and gate's check.")
    ] = False,
) -> None:
    """Say what a finding or a regime means, how it is measured, by what cuts, and what to do."""
    with fixable_errors():
        from arca_diag import explanations
        from arca_diag.report.explanation import print_explanation, print_list

        if (identity is None) == (not listed):
            raise ArcaError(
                "explain takes one id, or --list",
                hint="for example `arca-diag explain adapter-inert`",
            )
        if identity is None:
            print_list(stdout(), explanations.listed(), bare=not sys.stdout.isatty())
        else:
            print_explanation(stdout(), explanations.explain(identity))


app.command()(merge)
app.command()(report)
app.command()(compare)
app.command(cls=Command)(gate)
app.add_typer(config_app(scan), name="config")


def _scan(flags: dict[str, Any], as_json: bool, loudness: int, gate_at: str | None = None) -> None:
    with last_line_on_errors() if gate_at else fixable_errors():
        say_more(loudness)
        config = config_of(flags)
        if gate_at:
            check_whole(config)
        # A policy that is wrong is said before hours of replay, not after.
        policy = policy_of(config.run, {"fail_on": gate_at}, None) if gate_at else None
        with progress_bar() as progress:
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
        if diagnosis is None:  # the first process has it
            return
        print_diagnosis(diagnosis, as_json)
        if diagnosis.report is None:
            return
        if policy is not None:
            raise typer.Exit(gate_a_scan(diagnosis.report, policy, to_stderr=as_json))
        if diagnosis.report.status == "nothing-measured":
            raise typer.Exit(ExitCode.NOTHING_MEASURED)


def _sample_run() -> Path:
    """The sample in the package; in a checkout, where an editable install lacks it, the tree's."""
    packaged = Path(str(package_files("arca_diag"))) / "sample_runs" / "tiny-addition"
    return (
        packaged if packaged.is_dir() else Path(__file__).parents[1] / "sample_runs/tiny-addition"
    )


def _repeated(flags: dict[str, Any]) -> str:
    """The run and the options that were given, to be given again to another command."""
    words = [str(shown(flags["run"]))]
    for name, value in flags.items():
        if name != "run" and value is not None and value is not False:
            words.append("--" + name.replace("_", "-"))
            words += [] if value is True else [str(value)]
    return shlex.join(words)


def main() -> None:
    """Entry point of the console script. What gets this far uncaught is our bug."""
    open_streams()
    Console.on_broken_pipe = stay_quiet  # type: ignore[method-assign,assignment]  # Typer's help as well
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            mute_stdout()  # what it holds may be what there is no room for
            message, code = "there is no space left to write to", ExitCode.BAD_INPUT
            stderr().print(f"error: {message}")
        else:
            traceback.print_exc()
            message, code = "a bug of ours, with the traceback above", ExitCode.BUG
        if sys.argv[1:2] == ["gate"]:
            tell_error(message)
        sys.exit(code)
    finally:
        print_raw("")  # flushes: a reader that has gone is no error
