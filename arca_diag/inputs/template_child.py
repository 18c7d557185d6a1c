"""Renders chats with a chat template: a program of its own, since the template is one too.

It is started by path, with nothing of the package around it. The request is on standard input:
a line with the template and the limits, then a line for each chat. For each chat a line with
the answer goes to standard output as soon as it is there. Jinja's sandbox is the first fence,
limits of the operating system are the second, and a hook that refuses files, processes,
connections and imports, which Python cannot take off again, is the third.
"""

import contextlib
import json
import math
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

try:
    import resource
except ImportError:  # Windows: the time limit alone holds there
    resource = None  # type: ignore[assignment]

_SHOWN = 300  # characters of what a template says
# What compiling a template, filters and unwinding a fault do; anything else is refused.
_ALLOWED = frozenset(
    {"builtins.id", "code.__new__", "compile", "exec", "object.__getattr__", "sys._getframe"}
)
# Makes Jinja import all that it imports only when first needed: in the end by a fault.
_WARM_UP = r"{{ 'a\n' | pprint | wordwrap | striptags }}{{ strftime_now('%d') }}{{ missing.name }}"
_REASONING = ("reasoning_content", "thinking", "reasoning")


class _Refused(Exception):
    """What a template says as it refuses a chat."""


class _TooLong(Exception):
    """The limit on characters that was met."""


class _Generation(Extension):
    """`{% generation %}` marks what the assistant wrote; nothing asks for that here."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own form)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class _Dict:
    """`dict(...)` and `dict.fromkeys(...)` without the class itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace(...)` that holds no name with which Python looks things up itself."""

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: Any) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace cannot hold {name!r}")


class Renderer:
    """A compiled template, with what templates of transformers may use.

    Attributes:
        uses_clock: Whether the template has asked for the time so far.
    """

    def __init__(self, template: str) -> None:
        self.uses_clock = False
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
        )
        environment.filters["tojson"] = _tojson
        environment.globals |= {
            "dict": _Dict(),
            "namespace": _Namespace,
            "raise_exception": _refuse,
            "strftime_now": self._now,
        }
        # By chance no chat is rendered twice alike: better none than one that was never used.
        del environment.filters["random"], environment.globals["lipsum"]
        self._template = environment.from_string(template)

    def _now(self, form: str) -> str:
        self.uses_clock = True
        return datetime.now().strftime(form)

    def render(self, chat: Any, variables: dict[str, Any], most: int) -> str:
        """The chat as text of at most `most` characters."""
        if not isinstance(chat, list) or not chat:
            raise _Refused("not a list of messages, or an empty one")
        if not all(isinstance(message, dict) for message in chat):
            raise _Refused("a message is not an object")
        messages = [_message(message) for message in chat]
        pieces = []
        for piece in self._template.generate({**variables, "messages": messages}):
            most -= len(piece)
            if most < 0:
                raise _TooLong
            pieces.append(piece)
        return "".join(pieces)


def _message(given: dict[str, Any]) -> dict[str, Any]:
    """As transformers hands it on: no empty keys, and reasoning under two names."""
    message = {key: value for key, value in given.items() if value is not None}
    reasoning = next((message[key] for key in _REASONING if key in message), None)
    if reasoning is None:
        return message
    return {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is; Jinja's own filter escapes it for HTML."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _refuse(message: Any) -> None:
    raise _Refused(message)


def _explained(error: Exception) -> str:
    said = f"{error}"[:_SHOWN]
    match error:
        case _Refused():
            return f"the template refuses the chat: {said}"
        case _TooLong():
            return "the rendered chat is longer than the limit"
        case MemoryError():
            return "the template needs more memory than the limit"
        case RecursionError():
            return "the template is nested, or calls itself, too deeply"
        case SecurityError():
            return f"the template reaches for what no template may use: {said}"
        case jinja2.TemplateSyntaxError():
            return f"the template is not valid, line {error.lineno}: {said}"
    return f"the template fails with {type(error).__name__}: {said}"


def warm_up() -> None:
    """Import what Jinja needs, as long as that is possible."""
    with contextlib.suppress(jinja2.UndefinedError):
        Renderer(_WARM_UP).render([{"role": "user"}], {}, 100)


def fence(seconds: float, memory: int, output: int) -> None:
    """Give up, for the rest of this process, what rendering a template does not need."""
    if resource is not None:
        limits = {
            resource.RLIMIT_AS: memory,
            resource.RLIMIT_FSIZE: output,
            resource.RLIMIT_CPU: math.ceil(seconds) + 1,  # in case nobody is left to end us
            resource.RLIMIT_CORE: 0,
        }
        for kind, wanted in limits.items():
            _, most = resource.getrlimit(kind)
            wanted = wanted if most == resource.RLIM_INFINITY else min(wanted, most)
            resource.setrlimit(kind, (wanted, wanted))

    def hook(event: str, _: tuple[Any, ...]) -> None:
        if event not in _ALLOWED:
            raise SecurityError(event)

    sys.addaudithook(hook)


def _answers(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    head = json.loads(next(lines))
    warm_up()
    fence(head["seconds"], head["memory"], head["output"])
    try:
        renderer = Renderer(head["template"])
    except Exception as error:
        yield {"every": _explained(error)}
        return
    left = head["total"]
    for line in lines:
        answer: dict[str, Any] = {}
        try:
            text = renderer.render(
                json.loads(line), head["variables"], min(left, head["characters"])
            )
            left -= len(text)
            answer["text"] = text
        except Exception as error:
            answer["fault"] = _explained(error)
        yield {**answer, "uses_clock": renderer.uses_clock}


def main() -> None:
    """Answer the request on standard input."""
    for answer in _answers(iter(sys.stdin)):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
