"""The gate's JSON document: its schema is published, and every outcome fits it."""

import json
from importlib.resources import files

import jsonschema
import pytest

from arca_diag.gate.outcome import GateResult, gate_schema
from tests.gate import figure, finding, gated, report, verdict

PUBLISHED = json.loads(files("arca_diag").joinpath("gate.schema.json").read_text("utf-8"))


def test_the_published_schema_is_that_of_the_models() -> None:
    assert gate_schema() == PUBLISHED


@pytest.mark.parametrize(
    "made",
    [
        report(),
        report(findings=(finding("adapter-inert"), finding("layers-dead", "warn", checkpoint=20))),
        report(verdicts=(verdict("surprisal", "sparse"),), credit="surprisal"),
        report(unmeasured=(20,), fidelity="cannot-tell"),
        report(figures=(figure(value=None),)),
    ],
)
def test_every_outcome_fits_it_and_is_read_as_it_was(made) -> None:
    table = {
        "rules": {"gini_corrected": {"max": 0.5, "level": "warn"}},
        "suppressions": [{"id": "layers-dead", "reason": "known", "expires": "2099-01-01"}],
    }
    result = gated(made, table)
    document = json.loads(result.to_json())
    jsonschema.Draft202012Validator(PUBLISHED).validate(document)
    assert GateResult.model_validate_json(result.to_json()) == result
    wrong = {k: v for k, v in document.items() if k != "exit_code"}
    assert not jsonschema.Draft202012Validator(PUBLISHED).is_valid(wrong)
