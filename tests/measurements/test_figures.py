"""What a figure says that it is from: the completions it is defined in, and no other."""

import numpy as np
import pandas as pd

from arca_diag.measurements.evidence import Place
from arca_diag.measurements.figures import figure

ROWS = pd.DataFrame(
    {
        "group_id": ["a", "a", "b", "c"],
        "cluster": ["p", "p", "q", "r"],
        "n_tokens": [3, 5, 7, 11],
        "class": ["middle"] * 4,
    }
)
PLACE = Place(name="checkpoint-2", step=2, view="fixed-set", rows=ROWS)


def test_only_completions_that_it_is_defined_in_are_counted() -> None:
    found = figure(PLACE, "gini", np.array([0.25, 0.75, 1.0, np.nan]), ROWS)
    assert (found.n_clusters, found.n_groups, found.n_completions, found.n_tokens) == (2, 2, 3, 15)
    assert found.value == 0.75  # of prompts: .5 and 1
    assert found.reason is None


def test_where_it_is_defined_in_none_there_is_a_reason_and_no_count() -> None:
    found = figure(PLACE, "gini", np.full(4, np.nan), ROWS)
    assert (found.value, found.n_groups, found.n_completions, found.n_tokens) == (None, 0, 0, 0)
    assert found.reason == "every completion counts fewer than two tokens"
