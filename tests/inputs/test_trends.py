import json
import math

import pytest

from arca_diag.inputs.runs import find_run
from arca_diag.inputs.trends import Trend, log_trends, series, training_rows
from tests.inputs import SAMPLE, a_run


def rows(key: str, *values) -> tuple[dict, ...]:
    return tuple({"step": n, key: value} for n, value in enumerate(values, 1))


def trend(*values, key: str = "reward") -> Trend:
    (only,) = log_trends(a_run(log=rows(key, *values)))
    return only


class TestTrends:
    def test_the_sample_has_those_that_its_log_has(self):
        log = [
            row
            for row in json.loads((SAMPLE / "trainer_state.json").read_text())["log_history"]
            if "reward" in row
        ]
        found = {t.name: t for t in log_trends(find_run(SAMPLE))}
        assert set(found) == {
            "reward", "reward spread", "entropy", "gradient norm", "learning rate", "clip ratio",
            "zero-spread groups", "truncation", "length",
        }  # fmt: skip
        reward = found["reward"]
        assert reward.n == len(log) == 101
        assert reward.steps == (1, 101)
        assert reward.first == pytest.approx(math.fsum(r["reward"] for r in log[:10]) / 10)
        assert reward.last == pytest.approx(math.fsum(r["reward"] for r in log[-10:]) / 10)
        assert reward.low == min(r["reward"] for r in log)
        assert reward.high == max(r["reward"] for r in log)
        assert found["length"].key == "completions/mean_length"
        assert found["truncation"].key == "completions/clipped_ratio"

    def test_the_first_and_last_tenth_are_means(self):
        found = trend(*range(20))
        assert (found.first, found.last) == (0.5, 18.5)

    def test_a_tenth_has_at_least_one_value(self):
        found = trend(3, 1, 2)
        assert (found.first, found.last, found.low, found.high, found.n) == (3, 2, 1, 3, 3)

    def test_a_constant_stays_within_its_bounds(self):
        found = trend(*[0.0006] * 101)
        assert found.first == found.last == found.low == found.high == 0.0006

    def test_huge_values_do_not_overflow(self):
        assert trend(*[1.7e308] * 40).first == 1.7e308

    def test_an_old_name_serves_where_the_new_one_is_missing(self):
        assert trend(0.5, key="clip_ratio").name == "clip ratio"
        log = ({"step": 1, "clip_ratio": 1, "clip_ratio/region_mean": 2},)
        assert log_trends(a_run(log=log))[0].first == 2

    @pytest.mark.parametrize("log", [(), rows("reward", None, "x"), rows("loss", 1.0)])
    def test_nothing_logged_is_no_trend(self, log):
        assert log_trends(a_run(log=log)) == ()


def logged(*log: dict) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return series(training_rows(a_run(log=log)), "kl")


class TestSeries:
    def test_only_finite_numbers_count(self):
        odd = [1, None, "2", True, math.nan, math.inf, 10**400, [1], {}, 2.5]
        assert logged(*rows("kl", *odd)) == ((1, 10), (1.0, 2.5))

    def test_rows_of_evaluations_are_left_out(self):
        evaluation = {"step": 1, "kl": 9.0, "eval_reward": 1.0}
        assert logged({"step": 1, "kl": 1.0}, evaluation) == ((1,), (1.0,))

    @pytest.mark.parametrize("step", [None, -1, 1.5, "x", "٣", 2**63, [1]])
    def test_a_row_without_a_step_has_no_place(self, step):
        assert logged({"step": step, "kl": 1.0}) == ((), ())
