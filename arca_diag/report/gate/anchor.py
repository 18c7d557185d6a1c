"""Where in a repository a rule is written: code review shows a finding at a line of a file."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """The policy's file, relative to the repository, and the line of each rule in it.

    A gate without a policy is anchored to the file that one would stand in.
    """

    path: str = "arca.toml"
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The path as a relative reference."""
        return quote(self.path.replace("\\", "/"), safe="/")

    def line(self, rule: str) -> int:
        """Where a rule is written; the first line for what the profile asks."""
        return self.lines.get(rule, 1)


def lines_of(text: str, rules: Iterable[str]) -> dict[str, int]:
    """The first line of a TOML file that gives each rule, where one does: a key, or a header."""
    found: dict[str, int] = {}
    wanted = set(rules)
    for number, line in enumerate(text.splitlines(), 1):
        key = line.strip().partition("=")[0].strip("[] \t")
        name = key.rpartition("rules.")[2].strip("\"' ")
        if name in wanted:
            found.setdefault(name, number)
    return found
