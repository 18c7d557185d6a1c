"""Renders chats with a run's chat template.

A template is a program that the run brings along. It runs in a process of its own, inside
Jinja's sandbox, under limits of time, memory and output, and what it does wrong is a text.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arca_diag.inputs.child import run_child

_CHILD = Path(__file__).with_name("template_child.py")
_MEMORY = 2**30  # bytes that the process may map
_TOTAL = 32  # all chats of a call together may have this many times what one may
_ESCAPED = 12  # bytes of a character at worst, as JSON writes it


@dataclass(frozen=True)
class TemplateFault:
    """Why a chat was not rendered."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What became of the chats of one call.

    Attributes:
        texts: The text of each chat, or why there is none, in the order of the chats.
        uses_clock: Whether the template wrote today's date or asked for it: the texts are then
            those of today, and the run's may have been others.
    """

    texts: list[str | TemplateFault]
    uses_clock: bool


def render_chats(
    template: str,
    chats: Sequence[Sequence[Mapping[str, Any]]],
    *,
    variables: Mapping[str, Any],
    special_tokens: Mapping[str, str],
    add_generation_prompt: bool = True,
    seconds: float = 10,
    characters: int = 4 * 2**20,
) -> Rendered:
    """Each chat as the text that transformers' `apply_chat_template(tokenize=False)` gives.

    Args:
        template: A chat template in Jinja.
        chats: Messages with a `role`, a `content` and whatever else the template reads.
        variables: More that it reads: `chat_template_kwargs` of the run, `tools`.
        special_tokens: `bos_token` and so on. A variable of the same name goes first.
        add_generation_prompt: Whether the text ends where the assistant's answer begins.
        seconds: Wall clock for all of them, and as much again for each thousand chats.
        characters: What one text may have; all together may have 32 times that.

    Returns:
        A text or a fault for each chat. Where time runs out, chats that were rendered before
        keep their text. There is a limit on memory where the system has one to set (not on
        Windows, and not kept on macOS).
    """
    if not chats:
        return Rendered(texts=[], uses_clock=False)
    allowed = seconds * (1 + len(chats) / 1000)
    head = {
        "template": template,
        "variables": {
            "tools": None,
            "documents": None,
            **special_tokens,
            **variables,
            "add_generation_prompt": add_generation_prompt,
        },
        "seconds": allowed,
        "memory": _MEMORY,
        "characters": characters,
        "total": _TOTAL * characters,
        "output": _ESCAPED * _TOTAL * characters + 1000 * len(chats),
    }
    try:
        first = _line(head)
    except ValueError as fault:
        return _all_fail(chats, f"its variables cannot be handed to a template: {fault}")
    answers, ended = run_child(_CHILD, [first, *map(_line_or_null, chats)], allowed)
    if answers and "every" in answers[0]:
        return _all_fail(chats, str(answers[0]["every"]))
    texts = [_outcome(answer) for answer in answers[: len(chats)]]
    texts += [TemplateFault(ended)] * (len(chats) - len(texts))
    return Rendered(texts=texts, uses_clock=any(a.get("uses_clock") is True for a in answers))


def _line(value: Any) -> bytes:
    """One line of JSON; ValueError for what cannot be one."""
    try:
        return json.dumps(value, default=_plain).encode() + b"\n"
    except (TypeError, RecursionError) as fault:
        raise ValueError(str(fault)) from None


def _line_or_null(chat: Any) -> bytes:
    try:
        return _line(chat)
    except ValueError:
        return b"null\n"


def _plain(value: Any) -> Any:
    """What a template can read of an object; of an image it asks only whether it is there."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return list(value)
    return f"<{type(value).__name__}>"


def _outcome(answer: dict[str, Any]) -> str | TemplateFault:
    text = answer.get("text")
    if not isinstance(text, str):
        return TemplateFault(str(answer.get("fault")))
    try:
        text.encode()
    except UnicodeEncodeError:
        return TemplateFault("the rendered chat holds half a character, which no tokenizer reads")
    return text


def _all_fail(chats: Sequence[Any], reason: str) -> Rendered:
    return Rendered(texts=[TemplateFault(reason)] * len(chats), uses_clock=False)
