"""Does once, within limits, what a run's patterns and tokenizer will be asked to do.

It is started by path, with nothing of the package around it, and reads the request on standard
input. A line on standard output says that all went well, or what did not.
"""

import json
import math
import os
import re
import sys
from typing import Any

try:
    import resource
except ImportError:  # Windows: the time limit alone holds there
    resource = None  # type: ignore[assignment]

_MEMORY = 4 * 2**30  # bytes that the process may map
_SHOWN = 300  # characters of what a library says

#: The ways in which PEFT matches a name.
_FORMS = ("(?:{})$", r"(.*\.)?({})$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(\d+)\.")


def match_all(patterns: list[str], names: list[str]) -> None:
    """Match every name with every pattern, in every way."""
    for pattern in patterns:
        for form in _FORMS:
            compiled = re.compile(form.format(pattern))
            for name in names:
                compiled.match(name)


def use_tokenizer(file: str, texts: list[str], ids: list[list[int]]) -> None:
    """Load a tokenizer; decode all its tokens, and what is given; encode texts in both ways."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # each thread would map memory of its own
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(file)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for text in texts:
        for special in (False, True):
            tokenizer.encode(text, add_special_tokens=special)
    for row in (list(range(tokenizer.get_vocab_size())), *ids):
        for skipping in (False, True):
            tokenizer.decode(row, skip_special_tokens=skipping)


def main() -> None:
    """Answer the request."""
    request: dict[str, Any] = json.loads(sys.stdin.readline())
    if resource is not None:
        for kind, limit in (
            (resource.RLIMIT_AS, _MEMORY),
            (resource.RLIMIT_CPU, math.ceil(request["seconds"]) + 1),
            (resource.RLIMIT_CORE, 0),
        ):
            _, most = resource.getrlimit(kind)
            limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
            resource.setrlimit(kind, (limit, limit))
    fault = ""
    try:
        if "patterns" in request:
            match_all(request["patterns"], request["names"])
        else:
            use_tokenizer(request["tokenizer"], request["texts"], request["ids"])
    except BaseException as error:  # the tokenizers' library panics past Exception
        fault = f"{type(error).__name__}: {error}"[:_SHOWN]
    sys.stdout.write(json.dumps({"fault": fault}) + "\n")


if __name__ == "__main__":
    main()
