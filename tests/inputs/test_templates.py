import json
import os
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from arca_diag.inputs import child, template_child, templates
from arca_diag.inputs.templates import (
    Rendered,
    TemplateFault,
    render_chats,
)
from tests.inputs import SAMPLE

SMOLLM2 = SAMPLE.parent / "smollm2-addition"

LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n" }}
{{- system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n'+ message.content | trim }}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- "\\n" }}{{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- set ns = namespace(multi=true, last=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi and message.role == "user" and not(message.content.startswith('<x>')) %}
        {%- set ns.multi = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "tool" %}
        {%- if loop.first or loop.previtem.role != "tool" %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>' + message.content + '</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != "tool" %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
        {{- '<|im_start|>assistant\\n' + content }}
        {%- for call in message.tool_calls or [] %}
            {{- '<tool_call>' + call.function.arguments|tojson(indent=2) + '</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{% endfor %}
{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}
"""

LOOPS = """{% for message in messages %}
{% if loop.index > 2 %}{% break %}{% endif %}
{% if message.role == 'system' %}{% continue %}{% endif %}
{% generation %}{% set inner = message.content %}[{{ inner }}]{% endgeneration %}
{{ inner is defined }} {{ dict(b=1, a=2) | tojson(sort_keys=true) }} {{ dict.fromkeys('ab', 0) }}
{{ namespace(self=3).self }} {{ '\u00e9<' | tojson }} {{ [1, 2] | tojson(separators=(',', ':')) }}
{% endfor %}
{{ tools is none }} {{ documents is none }} {{ nothing }} {{ pad_token }}
"""

FOR_EVER = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}"
GROWING = """{% set ns = namespace(x='a' * 1000000) %}
{% for i in range(9) %}{% set ns.x = ns.x * 40 %}{% endfor %}"""

USER = {"role": "user", "content": " What is 2+2? \u00e9 \U0001f600\n"}
ANSWER = {"role": "assistant", "content": "<think>hm</think>\n4"}
CHATS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "system": [{"role": "system", "content": "Be brief."}, USER],
    "turns": [USER, ANSWER, {"role": "user", "content": "And 3+3?"}],
    "tools": [
        USER,
        ANSWER | {"tool_calls": [{"function": {"name": "f", "arguments": {"a": "<\u00e9>"}}}]},
        {"role": "tool", "content": "4"},
        {"role": "tool", "content": "five"},
    ],
}
TOOLS = [{"type": "function", "function": {"name": "f", "description": "<\u00e9>"}}]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(SMOLLM2)


def rendered(template: str, *chats: Any, **given: Any) -> Rendered:
    chats = chats or ([USER],)
    return render_chats(template, chats, **({"variables": {}, "special_tokens": {}} | given))


def fault(template: str, *chats: Any, **given: Any) -> str:
    """Why the one chat, or the first of several, was not rendered."""
    outcome = rendered(template, *chats, **given).texts[0]
    assert isinstance(outcome, TemplateFault)
    return outcome.reason


class TestLikeTransformers:
    @pytest.mark.parametrize("prompted", [True, False])
    @pytest.mark.parametrize(
        "variables",
        [{}, {"enable_thinking": False, "date_string": "1 May 2025"}, {"tools": TOOLS}],
        ids=["plain", "kwargs", "tools"],
    )
    @pytest.mark.parametrize(
        "template",
        ["SMOLLM2", LLAMA, QWEN, GEMMA, LOOPS],
        ids=["smollm2", "llama", "qwen", "gemma", "loops"],
    )
    def test_every_chat_is_rendered_alike_or_refused_by_both(
        self, tokenizer, template, variables, prompted
    ):
        template = tokenizer.chat_template if template == "SMOLLM2" else template
        found = render_chats(
            template,
            list(CHATS.values()),
            variables=variables,
            special_tokens=tokenizer.special_tokens_map,
            add_generation_prompt=prompted,
        )
        assert isinstance(found.texts[0], str)
        for chat, text in zip(CHATS.values(), found.texts, strict=True):
            try:
                expected = tokenizer.apply_chat_template(
                    chat,
                    chat_template=template,
                    tokenize=False,
                    add_generation_prompt=prompted,
                    **variables,
                )
            except Exception as error:
                expected = str(error)
                text = text.reason.removeprefix("the template refuses the chat: ")
            assert text == expected

    def test_a_variable_goes_before_a_special_token_of_its_name(self):
        found = rendered(
            "{{ eos_token }}", variables={"eos_token": "E"}, special_tokens={"eos_token": "e"}
        )
        assert found.texts == ["E"]

    def test_keys_without_a_value_are_dropped(self):
        chat = [USER | {"name": None, "tool_calls": None}]
        assert rendered("{{ messages[0] | tojson }}", chat).texts == [
            json.dumps(USER, ensure_ascii=False)
        ]

    @pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
    def test_reasoning_is_found_under_each_of_its_names(self, key):
        template = "{{ messages[0].thinking }}|{{ messages[0].reasoning_content }}"
        assert rendered(template, [ANSWER | {key: "hm"}]).texts == ["hm|hm"]


class TestWhatIsRendered:
    def test_a_text_or_a_fault_for_each_chat_in_their_order(self):
        texts = rendered(GEMMA, *CHATS.values()).texts
        assert [isinstance(text, TemplateFault) for text in texts] == [False, True, False, True]
        assert "refuses the chat: System role not supported" in texts[1].reason

    def test_no_chats_need_no_process(self, monkeypatch):
        monkeypatch.setattr(subprocess, "run", None)
        assert render_chats("{{ 1 }}", [], variables={}, special_tokens={}) == Rendered(
            texts=[], uses_clock=False
        )

    def test_a_template_that_asks_for_the_date_is_told_of(self):
        found = rendered("{{ strftime_now('%Y') }}")
        assert found.texts[0] in {str(datetime.now().year), str(datetime.now().year - 1)}
        assert found.uses_clock

    def test_a_template_that_need_not_ask_is_not(self):
        assert not rendered(LLAMA, variables={"date_string": "1 May 2025"}).uses_clock

    def test_chance_is_no_part_of_a_template(self):
        assert "No filter named 'random'" in fault("{{ [1, 2] | random }}")
        assert fault("{{ lipsum() }}").endswith("UndefinedError: 'lipsum' is undefined")

    @pytest.mark.parametrize(
        "value", [{1, 2}, b"x", object(), (1, 2), datetime(2025, 1, 1)], ids=lambda v: type(v)
    )
    def test_objects_that_json_does_not_know_do_not_stop_it(self, value):
        assert isinstance(rendered("{{ messages[0].x }}", [{"x": value}]).texts[0], str)

    @pytest.mark.parametrize("chat", [[], ["text"], [None], "text", 7, [[USER]]], ids=repr)
    def test_a_chat_that_is_none_is_a_fault_of_its_own(self, chat):
        texts = rendered("{{ messages[0].role }}", chat, [USER]).texts
        assert texts[0].reason.startswith("the template refuses the chat: ")
        assert texts[1] == "user"

    def test_a_chat_that_cannot_be_written_down_is_a_fault_of_its_own(self):
        deep: Any = "x"
        for _ in range(100_000):
            deep = [deep]
        texts = rendered("{{ messages[0].role }}", [{"role": deep}], [USER]).texts
        assert isinstance(texts[0], TemplateFault)
        assert texts[1] == "user"

    def test_variables_that_cannot_be_written_down_fail_every_chat(self):
        assert "its variables" in fault("x", variables={"a": {(1, 2): 3}})

    def test_half_a_character_is_a_fault(self):
        assert "half a character" in fault("{{ messages[0].content }}", [{"content": "\ud83d"}])


class TestHostileTemplates:
    @pytest.mark.parametrize(
        ("template", "said"),
        [
            (FOR_EVER, "not done within 2.002 s"),
            ("{{ 3 ** (2 ** 28) }}", "not done within"),
            ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply"),
            ("{{ " + "(" * 10_000 + ")" * 10_000 + " }}", "too deeply"),
            ("{{ 'a' * 10 ** 10 }}", "more memory"),
            (GROWING, "more memory"),
            (
                FOR_EVER.replace("%}{% endfor", "%}{{ 'aaaaaaaaaa' }}{% endfor", 1),
                "longer than the limit",
            ),
            ("{% for i in range(100001) %}{% endfor %}", "Range too big"),
            ("{{ raise_exception('not today') }}", "refuses the chat: not today"),
            ("{{ ''.__class__.__mro__ }}", "reaches for what no template may use"),
            ("{{ ''['__class__']['__mro__'] }}", "reaches for what no template may use"),
            ("{{ ''|attr('__class__') }}{{ (''|attr('__class__')).x }}", "reaches for"),
            ("{{ '{0.__class__.x}'.format('') }}", "reaches for"),
            ("{{ raise_exception.__globals__.x }}", "reaches for what no template may use"),
            ("{% set ns = namespace(__class__=1) %}", "a namespace cannot hold '__class__'"),
            ("{% set ns = namespace() %}{% set ns._x = 1 %}", "a namespace cannot hold '_x'"),
            ("{{ messages.append(1) }}", "reaches for what no template may use"),
            ("{% include '/etc/passwd' %}", "no loader"),
            ("\n{% if %}", "not valid, line 2"),
            ("{{ messages[0].nothing.more }}", "UndefinedError"),
            ("{{ raise_exception('x' * 100000) }}", "refuses the chat: xxx"),
        ],
        ids=lambda v: v[:30],
    )
    def test_ends_soon_with_a_message(self, template, said):
        started = time.monotonic()
        reason = fault(template, seconds=2)
        assert said in reason
        assert len(reason) < 500
        assert time.monotonic() - started < 15

    def test_a_chat_over_the_limit_leaves_the_others(self):
        texts = rendered(
            "{{ 'a' * messages[0].n }}", *([{"n": n}] for n in (10, 11, 9)), characters=10
        ).texts
        assert [texts[0], texts[2]] == ["a" * 10, "a" * 9]
        assert "longer than the limit" in texts[1].reason

    def test_all_chats_together_have_a_limit_too(self):
        texts = rendered("{{ 'a' * 10 }}", *[[USER]] * 40, characters=10).texts
        assert texts[:32] == ["a" * 10] * 32
        assert all("longer than the limit" in text.reason for text in texts[32:])

    def test_chats_rendered_before_time_runs_out_keep_their_text(self):
        template = "{% if messages[0].slow %}" + FOR_EVER + "{% endif %}done"
        texts = rendered(template, [{"slow": 0}], [{"slow": 1}], [{"slow": 0}], seconds=1).texts
        assert texts[0] == "done"
        assert ["not done within" in text.reason for text in texts[1:]] == [True, True]

    def test_a_process_that_dies_is_a_message(self, monkeypatch, tmp_path):
        broken = tmp_path / "child.py"
        broken.write_text("import sys; print('{\"te'); sys.exit('no jinja2 here')")
        monkeypatch.setattr(templates, "_CHILD", broken)
        assert fault("x").endswith("ended early, with status 1: no jinja2 here")

    def test_the_process_sees_nothing_of_our_environment(self, monkeypatch, tmp_path):
        spy = tmp_path / "child.py"
        spy.write_text("import json, os; print(json.dumps({'text': ' '.join(os.environ)}))")
        monkeypatch.setattr(templates, "_CHILD", spy)
        monkeypatch.setenv("HF_TOKEN", "secret")
        monkeypatch.setenv("TZ", "UTC")
        names = set(rendered("x").texts[0].split())
        assert "TZ" in names
        assert names <= {*child._ENVIRONMENT, "LC_CTYPE"}

    @pytest.mark.parametrize(
        "escaped",
        [
            "open('{flag}', 'w')",
            "os.open('{flag}', os.O_CREAT)",
            "os.system('touch {flag}')",
            "subprocess.run(['touch', '{flag}'])",
            "os.execv('/usr/bin/touch', ['touch', '{flag}'])",
            "os.fork()",
            "os.rename(__file__, '{flag}')",
            "socket.socket()",
            "__import__('ctypes')",
        ],
    )
    def test_even_python_code_could_reach_nothing(self, tmp_path, escaped):
        """What would happen if a template got out of the sandbox."""
        flag = tmp_path / "it-ran"
        code = (
            "import os, socket, subprocess, sys\n"
            f"sys.path.insert(0, {str(Path(template_child.__file__).parent)!r})\n"
            "import template_child\n"
            "template_child.warm_up()\n"
            "template_child.fence(5, 2**30, 2**20)\n"
            f"{escaped.format(flag=flag)}\n"
        )
        script = tmp_path / "script.py"
        script.write_text(code)
        done = subprocess.run([sys.executable, script], capture_output=True, text=True)
        assert done.returncode == 1
        assert "SecurityError" in done.stderr
        assert not flag.exists()


def test_the_package_does_not_load_jinja_to_render():
    code = "import sys, arca_diag.inputs.templates; print('jinja2' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ
    )
    assert done.stdout == "False\n"
