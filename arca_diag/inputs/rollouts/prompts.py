"""Prompts as they are written down: texts with or without a template's marks, and chats."""

import re
from collections.abc import Mapping
from typing import Any

from arca_diag.inputs.rollouts import fields
from arca_diag.inputs.rollouts.record import Fault

_SPECIAL = re.compile(r"<[|\uff5c][^<>|\uff5c\s]{1,40}[|\uff5c]>|<(?:start|end)_of_turn>")
_ROLE = re.compile(r"^(system|user|assistant)$", re.MULTILINE)
_TURN = re.compile(r"^(?:<\|im_start\|>)?(user|tool|assistant)$", re.MULTILINE)
_OPENED_THINKING = re.compile(r"\s*+(?:<think>\s*+(?:</think>\s*+)?)?")


def shows_special_tokens(text: str) -> bool:
    """Whether a template's special tokens stand in a text: then it is rendered already."""
    return _SPECIAL.search(text) is not None


def split_roles(text: str) -> list[dict[str, str]] | None:
    r"""The chat in a rendered prompt whose special tokens were stripped, as far as one can tell.

    A role stands alone on its line ("user\n2+2?\nassistant\n"). None unless the roles make a
    chat that awaits an answer: whatever else stands in a line of its own is text.
    """
    _, *parts = pieces = _ROLE.split(text)
    roles, contents = parts[::2], parts[1::2]
    if pieces[0] or len(roles) < 2 or not _OPENED_THINKING.fullmatch(contents[-1]):
        return None
    turns = roles[1:] if roles[0] == "system" else roles
    if len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        return None
    return [
        {"role": role, "content": content[1:-1]}
        for role, content in zip(roles[:-1], contents[:-1], strict=True)
    ]


def holds_turns(completion: str) -> bool:
    """Whether somebody else speaks within a completion: tools or the environment, by their role."""
    roles = _TURN.findall(completion)
    return "assistant" in roles and len(set(roles)) > 1


def chat(record: Mapping[str, Any], key: str) -> list[dict[str, str | None]]:
    """A chat of plain messages.

    Raises:
        Fault: It is something else, or a message holds more than texts (images, tool calls).
    """
    value = fields.messages(record.get(key))
    if value is None:
        kind = type(record.get(key)).__name__
        raise Fault(f"{key} must be a text, a chat or token ids, found {kind}")
    for number, message in enumerate(value, start=1):
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise Fault(f"{key}: message {number} must have role and content, both text")
        if other := [k for k, v in message.items() if not isinstance(v, str | None)]:
            raise Fault(f"{key}: message {number} holds more than text: {other[0]:.40}")
    return [{name: fields.text(message, name) for name in message} for message in value]
