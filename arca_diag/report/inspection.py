"""What `inspect` found, on a terminal: faults, what is there, and what a scan would cost."""

from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from arca_diag.inspected import FoundCheckpoint, Inspection
from arca_diag.report.words import count, finding_lines, safe
from arca_diag.results import AdapterInfo

_SHOWN = 12  # checkpoints


def print_inspection(console: Console, found: Inspection, asked: str) -> None:
    """Print an inspection; text that came from a file is never read as markup.

    Args:
        console: Where to.
        found: What was found.
        asked: The run and the options, as they are to be given to the next command.
    """
    console.print(render_inspection(found, asked), highlight=False, crop=False)


def render_inspection(found: Inspection, asked: str) -> RenderableType:
    """Everything that `inspect` prints."""
    parts: list[RenderableType] = [Text(headline(found), style="bold"), Text("")]
    parts += finding_lines(found.findings)
    if found.findings:
        parts.append(Text(""))
    parts += [_card(found), Text(""), _checkpoints(found)]
    if layers := _layers(found):
        parts.append(Text(safe(layers)))
    for refused in found.run.refused:
        parts.append(Text(safe(f"not used: {refused}")))
    if found.trends:
        parts += [Text(""), _trends(found)]
    parts += [Text(""), Text(safe(_cost(found)))]
    if found.plan is not None and found.base.found:
        again = f"Next     arca-diag scan {asked}"
        parts.append(Text(safe(again), no_wrap=True, overflow="ignore"))
    return Group(*parts)


def headline(found: Inspection) -> str:
    """How many faults, in one sentence."""
    levels: Counter[str] = Counter(f.level for f in found.findings)
    faults = [
        count(levels[level], noun)
        for level, noun in (("error", "error"), ("warn", "warning"))
        if levels[level]
    ]
    told = " and ".join(faults) if faults else "no fault"
    notes = f", {count(levels['note'], 'note')}" if levels["note"] else ""
    return f"{safe(found.run.name)}: {told} found without a model{notes}."


def _card(found: Inspection) -> Table:
    card = Table.grid(padding=(0, 2))
    card.add_column(no_wrap=True, style="bold")
    card.add_column(overflow="fold")
    run, base = found.run, found.base
    version = f" {run.framework_version}" if run.framework_version else ""
    named = f", named by {base.named_by}" if base.named_by else ""
    rows = [
        ("Trainer", f"{run.framework}{version}, by {run.recognised_by}"),
        ("Base", f"{base.name or 'not named'}{named}" + ("" if base.found else "; NOT FOUND")),
        *([("Adapter", _adapter(found.adapter))] if found.adapter else []),
        *(
            [("Reference", f"{found.reference.kind}: {found.reference.reason}")]
            if found.reference
            else []
        ),
        ("Rollouts", _rollouts(found)),
        *[("", text) for text in _rollout_details(found)],
        ("Training", _facts(found)),
    ]
    for name, text in rows:
        card.add_row(name, Text(safe(text)))
    return card


def _adapter(adapter: AdapterInfo) -> str:
    """What is adapted; ranks and kinds stand in the table below."""
    targets = ", ".join(adapter.target_modules) or "modules that PEFT chose"
    return f"LoRA on {targets}"


def _layers(found: Inspection) -> str:
    """Where the last checkpoint's update is, and in how many directions."""
    last = next((c for c in reversed(found.run.checkpoints) if c.update_norm), None)
    if last is None:
        return ""
    largest = sorted(last.layers, key=lambda layer: -(layer.share or 0))[:3]
    told = ", ".join(f"{layer.name} {layer.share or 0:.0%}" for layer in largest)
    text = f"update of {last.name}: largest in {told}, of {count(len(last.layers), 'layer')}"
    if last.effective_rank is not None and last.stable_rank is not None:
        text += (
            f"; effective rank {last.effective_rank:.2g}, stable rank {last.stable_rank:.2g} "
            "(medians over layers)"
        )
    return text


def _rollouts(found: Inspection) -> str:
    rollouts = found.rollouts
    if rollouts.reason is not None:
        return f"none: {rollouts.reason}"
    ids = "exact token ids" if rollouts.ids_exact else "text, or ids that are not exact"
    return (
        f"{rollouts.source}: {count(rollouts.found, 'completion')} in "
        f"{count(rollouts.groups, 'group')}; {ids}"
    )


def _rollout_details(found: Inspection) -> list[str]:
    rollouts = found.rollouts
    if rollouts.reason is not None:
        return []
    steps = "sampled at unknown steps"
    if rollouts.steps:
        first, last = rollouts.steps[0], rollouts.steps[-1]
        steps = f"sampled at steps {first} to {last} ({count(len(rollouts.steps), 'step')})"
        steps += f", by {rollouts.step_source}" if rollouts.step_source else ""
    out = [steps]
    told = [
        (rollouts.duplicates_dropped, "written twice"),
        (rollouts.eval_excluded, "of evaluations"),
        (rollouts.lines_skipped, "in groups with a bad line"),
        (sum(rollouts.left_out.values()), "for other reasons"),
    ]
    left = [f"{n:,} {why}" for n, why in told if n]
    if left:
        out.append(f"left out: {', '.join(left)}")
    if rollouts.groups_of_one_answer:
        out.append(f"{count(rollouts.groups_of_one_answer, 'group')} hold one answer only")
    return out


def _facts(found: Inspection) -> str:
    run = found.run
    told = [f"temperature {run.temperature:g} ({run.temperature_source})"]
    for name, value in (
        ("beta", run.beta),
        ("completions a group", run.num_generations),
        ("longest completion", run.max_completion_length),
        ("steps", run.steps),
    ):
        if value is not None:
            told.append(f"{name} {value:g}")
    return ", ".join(told)


def _checkpoints(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in (
        "checkpoint",
        "step",
        "rank",
        "alpha",
        "init",
        "kind",
        "MB",
        "update norm",
        "rank used",
    ):
        table.add_column(
            name, justify="left" if name in ("checkpoint", "init", "kind") else "right"
        )
    for checkpoint in found.run.checkpoints[-_SHOWN:]:
        table.add_row(*(Text(safe(cell)) for cell in _row(checkpoint)))
    return table


def _row(checkpoint: FoundCheckpoint) -> list[str]:
    if checkpoint.reason is not None:
        return [checkpoint.name, _or_dash(checkpoint.step), "cannot be read"]
    kinds = [("DoRA", checkpoint.use_dora), ("rsLoRA", checkpoint.use_rslora)]
    return [
        checkpoint.name,
        _or_dash(checkpoint.step),
        _or_dash(checkpoint.rank),
        _or_dash(checkpoint.alpha),
        checkpoint.init or "-",
        "+".join(name for name, is_it in kinds if is_it) or "LoRA",
        f"{(checkpoint.size_bytes or 0) / 1e6:.1f}",
        "-" if checkpoint.update_norm is None else f"{checkpoint.update_norm:.3g}",
        f"{checkpoint.rank_used / checkpoint.rank_given:.0%}"
        if checkpoint.rank_used is not None and checkpoint.rank_given
        else "-",
    ]


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _trends(found: Inspection) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("as the trainer logged it")
    for name in ("first tenth", "last tenth", "lowest", "highest", "entries"):
        table.add_column(name, justify="right")
    for trend in found.trends:
        numbers = (trend.first, trend.last, trend.low, trend.high)
        table.add_row(Text(safe(trend.name)), *(f"{v:.3g}" for v in numbers), f"{trend.entries:,}")
    return table


def _cost(found: Inspection) -> str:
    plan = found.plan
    if plan is None:
        return "scan     would stop: see above"
    if not found.base.found:
        return "scan     would stop: the base model is missing or cannot be used, see above"
    about = "about " if plan.guessed else ""
    return (
        f"scan     would replay {count(plan.completions, 'completion')} of "
        f"{count(plan.groups, 'group')} ({about}{plan.tokens:,} tokens, prompts included) "
        f"under the reference and "
        f"{count(plan.checkpoints, 'checkpoint')}: {plan.passes:,} passes, "
        f"{about}{plan.pass_tokens:,} tokens through the model, less what completions share"
    )
