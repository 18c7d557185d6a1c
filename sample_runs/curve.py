"""What a finished sample run says of itself: its reward curve and its versions, for its README."""

import json
import math
import re
import statistics
from pathlib import Path


def tenths(run: Path) -> list[dict[str, float]]:
    """Mean reward, its standard error over steps, entropy and length in each tenth of the run."""
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    rows = [entry for entry in log if "reward" in entry]
    result = []
    for i in range(10):
        part = rows[i * len(rows) // 10 : (i + 1) * len(rows) // 10]
        reward = [entry["reward"] for entry in part]
        result.append(
            {
                "from": part[0]["step"],
                "to": part[-1]["step"],
                "reward": statistics.mean(reward),
                "error": statistics.stdev(reward) / math.sqrt(len(reward)),
                "entropy": statistics.mean(entry["entropy"] for entry in part),
                "length": statistics.mean(entry["completions/mean_length"] for entry in part),
                "clipped": statistics.mean(entry["completions/clipped_ratio"] for entry in part),
            }
        )
    return result


def share(row: dict[str, float], key: str) -> str:
    """A figure with its standard error."""
    return f"{row[key]:.3f} ± {row['error']:.3f}"


def table(curve: list[dict[str, float]]) -> str:
    """The curve as a Markdown table."""
    head = "| Steps | Reward | Entropy | Length | Cut off |\n| --- | --- | --- | --- | --- |\n"
    return head + "\n".join(
        f"| {t['from']}-{t['to']} | {share(t, 'reward')} | {t['entropy']:.3f} "
        f"| {t['length']:.1f} | {t['clipped']:.3f} |"
        for t in curve
    )


def framework_versions(readme: Path) -> str:
    """The versions that TRL wrote into its model card, or an earlier README kept from it."""
    found = re.search(r"### Framework versions\n\n((?:- .+\n)+)", readme.read_text("utf-8"))
    if not found:
        raise RuntimeError(f"no framework versions in {readme}")
    return found[1].strip()
