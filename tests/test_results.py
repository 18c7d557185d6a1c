import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from arca_diag.results import (
    AdapterInfo,
    CheckpointInfo,
    ExitCode,
    Fidelity,
    Figure,
    Finding,
    Measurement,
    Onset,
    Provenance,
    ReferenceInfo,
    Report,
    RolloutsInfo,
    RunInfo,
    SettledBy,
    Share,
    Threshold,
    Verdict,
    WhatIf,
    published_schema,
    report_schema,
)
from arca_diag.thresholds import DEFAULT


def measurement(**given: Any) -> Measurement:
    fields = {
        "checkpoint": 60,
        "view": "on-policy",
        "signal": "surprisal",
        "sharpening": 1.0,
        "against": None,
        "name": "gini",
        "value": 0.5,
        "low": None,
        "high": None,
        "n_clusters": 8,
        "n_groups": 8,
        "n_completions": 64,
        "n_tokens": 640,
        "reason": None,
    }
    return Measurement(**(fields | given))


def finding(**given: Any) -> Finding:
    fields = {
        "id": "adapter-inert",
        "level": "warn",
        "checkpoint": 0,
        "signal": None,
        "message": "the adapter does nothing",
        "evidence": {},
        "action": "nothing to do at step 0",
        "source": "METHOD 8",
    }
    return Finding(**(fields | given))


def verdict(**given: Any) -> Verdict:
    fields = {
        "checkpoint": 60,
        "view": "on-policy",
        "signal": "surprisal",
        "sharpening": 1.0,
        "regime": "inconclusive",
        "without_ends": "middle",
        "shares": {"sparse": Share(value=0.5, low=0.2, high=0.8)},
        "left_out": {"short": 3},
        "disagree": 0.1,
        "n_clusters": 7,
        "n_groups": 7,
        "n_completions": 56,
        "n_distinct": 40,
        "n_tokens": 560,
        "causes": ["completions-short"],
        "settled_by": SettledBy(clusters_more=1, reason="under 8 prompts"),
    }
    return Verdict(**(fields | given))


def onset(**given: Any) -> Onset:
    fields = {
        "view": "fixed-set",
        "signal": "surprisal",
        "sharpening": 1.0,
        "side": "sparse",
        "after": 20,
        "by": 40,
        "n_clusters": 16,
        "reason": None,
    }
    return Onset(**(fields | given))


def what_if(**given: Any) -> WhatIf:
    fields = {
        "checkpoint": 60,
        "view": "on-policy",
        "credit": "surprisal s=2",
        "gini_corrected": Figure(value=0.9, low=0.8, high=1.0),
        "effn_corrected": Figure(value=0.1, low=0.0, high=0.2),
        "token_share_90": Figure(value=None, low=None, high=None),
        "uncredited": Share(value=0.0, low=0.0, high=0.3),
        "regime": "sparse",
        "n_clusters": 16,
    }
    return WhatIf(**(fields | given))


def report(**given: Any) -> Report:
    """The least that a whole report holds, one entry in every list."""
    fields = {
        "schema_version": 1,
        "tool": {"name": "arca-diag", "version": "0.1.0"},
        "status": "complete",
        "provenance": Provenance(
            started_at="2026-06-01T12:00:00Z",
            seconds=1.5,
            reused_passes=0,
            batch_tokens=2048,
            prefix_sharing=True,
            versions={"numpy": "2.4.6"},
            device="cpu",
            dtype="float32",
            seed=0,
            options={"sharpening": 1.0, "base": None},
            base={"path": "base"},
            inputs={"adapter_model.safetensors": "00" * 32},
        ),
        "run": RunInfo(
            name="run",
            framework="trl",
            framework_version="1.16.0",
            recognised_by="its completions",
            steps=None,
            temperature=1.0,
            temperature_source="assumed",
            checkpoints=[CheckpointInfo(name="checkpoint-60", step=60, measured=True)],
        ),
        "adapter": AdapterInfo(
            kind="lora",
            init="default",
            rank=8,
            alpha=16.0,
            target_modules=["q_proj"],
            use_dora=False,
            use_rslora=False,
        ),
        "reference": ReferenceInfo(kind="adapter-off", reason="plain LoRA"),
        "rollouts": RolloutsInfo(
            source="completions",
            selected=64,
            groups=8,
            clusters=8,
            distinct=60,
            tokens=640,
            ids_exact=False,
            eval_excluded=0,
            duplicates_dropped=0,
            lines_skipped=0,
            found=70,
            left_out={"an odd one": 1},
            guessed_prompts=0,
            step_source="the recorder",
            group_source=None,
            unknown_fields={},
            cut_off=0,
            cut_off_unknown=64,
            steps=[59, 60],
            fixed_set=["a"],
        ),
        "replay_fidelity": [
            Fidelity(checkpoint="checkpoint-60", status="cannot-tell", figures={}, reason="no log")
        ],
        "measurements": [measurement()],
        "verdicts": [verdict()],
        "onsets": [onset()],
        "what_if": [what_if()],
        "findings": [finding()],
        "thresholds": list(DEFAULT),
        "files": {"report.json": None, "tokens.parquet": "00" * 32},
    }
    return Report(**(fields | given))


def changed(path: str, value: object) -> str:
    """The document with one entry replaced; `path` has dots, a number is a place in a list."""
    document = json.loads(report().to_json())
    *above, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    inner = document
    for key in above:
        inner = inner[key]
    inner[last] = value
    return json.dumps(document)


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
MAYBE = st.none() | NUMBERS
COUNTS = st.integers(0, 10**12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
STEPS = st.integers(0, 10**6) | st.text()
MEASUREMENTS = st.builds(
    lambda value, text, **rest: measurement(
        value=value, reason=text if value is None else None, **rest
    ),
    value=MAYBE,
    text=st.text(),
    checkpoint=STEPS,
    view=st.sampled_from(["on-policy", "fixed-set"]),
    signal=st.none() | st.text(),
    sharpening=MAYBE,
    against=st.none() | st.text(),
    low=MAYBE,
    high=MAYBE,
    n_tokens=COUNTS,
)
FINDINGS = st.builds(
    finding,
    id=st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)+", fullmatch=True),
    level=st.sampled_from(["error", "warn", "note"]),
    checkpoint=st.none() | STEPS,
    message=st.text(),
    evidence=st.dictionaries(st.text(), JSON, max_size=3),
    cause_of=st.lists(st.text(), max_size=2),
    caused_by=st.none() | st.text(),
)


class TestMeasurement:
    def test_a_value_needs_no_reason(self):
        assert measurement(value=0.0, reason=None).value == 0.0

    def test_a_missing_value_needs_a_reason(self):
        assert measurement(value=None, reason="all scores are zero").value is None

    @pytest.mark.parametrize(("value", "reason"), [(None, None), (0.5, "why"), (0.0, "")])
    def test_neither_and_both_are_refused(self, value, reason):
        with pytest.raises(ValidationError, match="gini: give a value or the reason why"):
            measurement(value=value, reason=reason)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("n_tokens", -1), ("view", "off-policy"), ("n_groups", 1.5), ("median", 0.5)],
    )
    def test_what_the_schema_does_not_allow_is_refused(self, field, value):
        with pytest.raises(ValidationError, match=field):
            measurement(**{field: value})

    def test_it_is_frozen(self):
        with pytest.raises(ValidationError, match="frozen"):
            measurement().value = 0.1


class TestFinding:
    @pytest.mark.parametrize("good", ["adapter-inert", "a-b-c", "credit-4-tokens"])
    def test_an_id_is_kebab_case(self, good):
        assert finding(id=good).id == good

    @pytest.mark.parametrize(
        "bad",
        ["inert", "Adapter-Inert", "adapter_inert", "-a-b", "a-b-", "a--b", "a b-c", "", "a-b\n"],
    )
    def test_an_id_of_another_form_is_refused(self, bad):
        with pytest.raises(ValidationError, match="id"):
            finding(id=bad)

    def test_without_relatives_it_is_nobodys_cause(self):
        assert (finding().cause_of, finding().caused_by) == ([], None)


class TestOnset:
    def test_an_onset_between_two_checkpoints_needs_no_reason(self):
        assert onset().reason is None

    @pytest.mark.parametrize(
        ("after", "by", "reason"),
        [(None, 40, None), (20, None, None), (None, None, None), (20, 40, "why")],
    )
    def test_an_open_end_is_what_a_reason_is_for(self, after, by, reason):
        with pytest.raises(ValidationError, match="give both ends of the onset or the reason"):
            onset(after=after, by=by, reason=reason)


class TestRoundTrip:
    @given(
        st.lists(MEASUREMENTS, max_size=2), st.lists(FINDINGS, max_size=2), JSON, st.text(), NUMBERS
    )
    def test_reading_what_was_written_gives_the_same_report(
        self, measurements, findings, option, name, seconds
    ):
        provenance = report().provenance.model_copy(
            update={"options": {"any": option}, "seconds": seconds}
        )
        run = report().run.model_copy(update={"name": name})
        one = report(measurements=measurements, findings=findings, provenance=provenance, run=run)
        text = one.to_json()
        assert Report.from_json(text) == one
        assert Report.from_json(text.encode()) == one
        assert Report.from_json(text).to_json() == text

    def test_a_bare_adapters_name_stays_a_name_and_a_step_a_step(self):
        one = report(measurements=[measurement(checkpoint="60"), measurement(checkpoint=60)])
        again = Report.from_json(one.to_json())
        assert [m.checkpoint for m in again.measurements] == ["60", 60]

    def test_it_is_indented_and_ends_with_a_newline(self):
        text = report().to_json()
        assert text.startswith('{\n  "schema_version": 1,\n  "tool": {\n')
        assert text.endswith("}\n")

    def test_the_top_level_keys_are_those_of_the_design_in_order(self):
        first = ["schema_version", "tool", "status", "provenance", "run", "adapter", "reference"]
        then = ["rollouts", "replay_fidelity", "measurements", "verdicts", "onsets", "what_if"]
        last = ["findings", "skipped", "thresholds", "files"]
        assert list(json.loads(report().to_json())) == first + then + last


class TestNoNaN:
    @pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("place", ["value", "evidence"])
    def test_a_report_with_a_number_json_has_not_is_never_written(self, number, place):
        # Refused when it is made or, at the latest, when it is written.
        with pytest.raises(ValueError, match=r"(?i)json compliant|finite"):
            report(
                measurements=[measurement(value=number)] if place == "value" else [],
                findings=[finding(evidence={"x": number})] if place == "evidence" else [],
            ).to_json()

    @pytest.mark.parametrize("number", [math.nan, math.inf])
    def test_a_document_with_a_number_json_has_not_is_refused(self, number):
        text = changed("measurements.0.value", number)
        with pytest.raises(ValidationError, match="measurements"):
            Report.from_json(text)


class TestSchema:
    def test_the_published_file_is_the_models_schema(self):
        assert published_schema() == report_schema()

    def test_it_is_a_valid_schema_of_its_dialect(self):
        assert report_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        jsonschema.Draft202012Validator.check_schema(report_schema())

    def test_a_whole_report_is_valid(self):
        jsonschema.validate(json.loads(report().to_json()), published_schema())

    def test_a_report_in_which_nothing_was_measured_is_valid(self):
        empty = report(
            status="nothing-measured",
            measurements=[],
            verdicts=[],
            findings=[],
            replay_fidelity=[],
        )
        jsonschema.validate(json.loads(empty.to_json()), published_schema())

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("schema_version", 2),
            ("schema_version", True),
            ("status", "fine"),
            ("mood", "good"),
            ("measurements.0.n_tokens", -1),
            ("measurements.0.value", "0.5"),
            ("measurements.0.view", "off-policy"),
            ("findings.0.id", "inert"),
            ("findings.0.level", "fatal"),
            ("thresholds.0.comparator", "!="),
            ("rollouts.ids_exact", "yes"),
            ("adapter.rank", "8"),
        ],
    )
    def test_what_breaks_the_schema_is_refused_by_schema_and_reader_alike(self, path, value):
        text = changed(path, value)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(json.loads(text), published_schema())
        with pytest.raises(ValidationError, match=path.split(".")[0]):
            Report.from_json(text)

    @pytest.mark.parametrize("key", ["tool", "provenance", "measurements", "files"])
    def test_a_missing_part_is_refused_by_schema_and_reader_alike(self, key):
        document = json.loads(report().to_json())
        del document[key]
        with pytest.raises(jsonschema.ValidationError, match=f"'{key}' is a required property"):
            jsonschema.validate(document, published_schema())
        with pytest.raises(ValidationError, match=key):
            Report.from_json(json.dumps(document))

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "<html>"])
    def test_what_is_no_document_is_refused(self, text):
        with pytest.raises(ValidationError, match="Report"):
            Report.from_json(text)


class TestThreshold:
    def test_a_comparator_is_one_of_four(self):
        with pytest.raises(ValidationError, match="comparator"):
            Threshold(id="x-y", value=1.0, comparator="==", source="nowhere")


class TestExitCodes:
    def test_they_are_those_of_the_design(self):
        assert {code.name: int(code) for code in ExitCode} == {
            "DONE": 0,
            "GATE_FAILED": 1,
            "BAD_INPUT": 2,
            "NOTHING_MEASURED": 3,
            "BUG": 101,
            "INTERRUPTED": 130,
        }
