import dataclasses
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from arca_diag.fidelity import judge_fidelity, mismatch_findings
from arca_diag.fidelity.logged import Logged
from arca_diag.results import Fidelity
from arca_diag.thresholds import DEFAULT, FIDELITY_THRESHOLDS, Cuts
from tests.inputs import entry, rollout

STEP = 7
NAME = "checkpoint-7"


class Case:
    """Completions of eight prompts, replayed at one checkpoint, and what was logged of them."""

    def __init__(self, *, batch: str = "b8", step: int | None = STEP, **given: Any) -> None:
        rng = np.random.default_rng(1)
        self.rollouts, self.entries, frames = [], [], []
        for number in range(16):
            length = 5 + number % 4
            self.rollouts.append(
                rollout(
                    number,
                    step=step,
                    prompt_ids=(1, number // 2),
                    completion_ids=tuple(range(length)),
                    mask=(True,) * length,
                    **given,
                )
            )
            self.entries.append(entry(number, step=step, batch=batch))
            frames.append(
                pd.DataFrame(
                    {
                        "checkpoint": NAME,
                        "rollout_id": f"r{number}",
                        "position": range(length),
                        "counted": True,
                        "surprisal": rng.exponential(1.0, length),
                        "entropy": rng.exponential(1.0, length),
                        "log_ratio": rng.normal(0, 0.3, length),
                    }
                )
            )
        self.tokens = pd.concat(frames, ignore_index=True)
        self.batches = {STEP + 1: batch}
        self.rows = [{"step": STEP + 1, "entropy": self.entropy, "kl": self.kl}]
        self.interval, self.partial = 1, False
        self.of_another: dict[str, str] = {}
        self.micro_batch: int | None = None

    @property
    def entropy(self) -> float:
        return math.fsum(self.tokens["entropy"]) / len(self.tokens)

    @property
    def kl(self) -> float:
        """Schulman's k3 of the reference over the policy."""
        back = [-x for x in self.tokens["log_ratio"]]
        return math.fsum(math.expm1(x) - x for x in back) / len(back)

    def logged(self, **row: Any) -> "Case":
        self.rows = [self.rows[0] | row]
        return self

    def judge(self, cuts: Cuts = DEFAULT) -> Fidelity:
        (found,) = judge_fidelity(
            self.tokens,
            self.rollouts,
            self.entries,
            {NAME: STEP},
            Logged(
                rows=self.rows,
                batches=self.batches,
                interval=self.interval,
                partial=self.partial,
                micro_batch=self.micro_batch,
                of_another=self.of_another,
            ),
            cuts,
        )
        return found


class TestAgainstTheLog:
    def test_the_same_figures_pass(self):
        found = Case().judge()
        assert (found.checkpoint, found.status) == ("7", "pass")
        assert found.figures["entropy_relative_difference"] < 1e-12
        assert found.figures["kl_relative_difference"] < 1e-12
        assert found.figures["log_step"] == STEP + 1

    @pytest.mark.parametrize(
        ("off", "status"),
        [(1.049, "pass"), (0.951, "pass"), (1.06, "warn"), (0.92, "warn"), (1.12, "fail")],
    )
    def test_entropy_has_a_tolerance_of_5_percent_and_fails_at_twice_that(self, off, status):
        case = Case()
        assert case.logged(entropy=case.entropy / off).judge().status == status

    @pytest.mark.parametrize(("off", "status"), [(1.08, "pass"), (1.2, "warn"), (1.5, "fail")])
    def test_kl_has_its_own(self, off, status):
        case = Case()
        assert case.logged(kl=case.kl / off).judge().status == status

    def test_the_worse_of_the_two_decides(self):
        case = Case()
        assert case.logged(kl=case.kl * 10).judge().status == "fail"

    def test_figures_that_are_rounding_pass(self):
        case = Case()
        case.tokens["log_ratio"] = 1e-5
        assert case.logged(kl=4e-4).judge().status == "pass"
        assert case.logged(kl=0.3).judge().status == "fail"

    def test_tokens_that_do_not_count_are_left_out(self):
        case = Case()
        before = case.entropy
        extra = case.tokens.iloc[:20].assign(counted=False, entropy=99.0)
        case.tokens = pd.concat([case.tokens, extra], ignore_index=True)
        assert case.logged(entropy=before).judge().status == "pass"

    def test_other_batches_are_left_out(self):
        case = Case()
        case.rows[0]["entropy"] = case.entropy
        for number in range(4):
            case.entries.append(entry(90 + number, id=f"x{number}", batch="other"))
            case.rollouts.append(rollout(id=f"x{number}"))
            more = case.tokens.iloc[:5].assign(rollout_id=f"x{number}", entropy=50.0)
            case.tokens = pd.concat([case.tokens, more], ignore_index=True)
        assert case.judge().status == "pass"

    @pytest.mark.parametrize("odd", [None, "x", math.nan, math.inf, True, [], 10**400])
    def test_a_log_of_odd_values_cannot_tell(self, odd):
        found = Case().logged(entropy=odd, kl=odd).judge()
        assert found.status == "cannot-tell"
        assert "no entropy or KL to compare" in (found.reason or "")


class TestTheEntryBefore:
    def test_it_serves_where_nothing_was_logged_one_step_on_and_that_is_said(self):
        case = Case(batch="b7")
        case.batches = {STEP: "b7"}
        case.rows = [{"step": STEP, "entropy": case.entropy * 1.03}]
        found = case.judge()
        assert found.status == "pass"
        assert "the policy before" in (found.reason or "")

    def test_the_entry_after_is_preferred(self):
        case = Case()
        case.batches[STEP] = "b8"
        case.rows.append({"step": STEP, "entropy": 99.0})
        assert case.judge().figures["log_step"] == STEP + 1


class TestPartsOfABatch:
    def by_hand(self, case: Case) -> float:
        """The 95% half-width of the token mean over prompts, by the delta method."""
        prompts = case.tokens["rollout_id"].str[1:].astype(int) // 2
        sums = case.tokens.groupby(prompts)["entropy"].sum()
        sizes = case.tokens.groupby(prompts).size()
        mean = sums.sum() / sizes.sum()
        spread = (sums - mean * sizes) / sizes.mean()
        return float(stats.t.ppf(0.975, 7) * stats.sem(spread)) / mean

    @pytest.mark.parametrize("why", ["averaged", "pieces", "missing"])
    def test_the_sampling_error_is_allowed_and_said(self, why):
        case = Case()
        if why == "averaged":
            case.interval = 10
        elif why == "pieces":
            case.partial = True
        else:
            case.entries.append(entry(99, id="gone", batch="b8"))
        wide = self.by_hand(case)
        inside = case.logged(entropy=case.entropy * (1 - 0.9 * wide), kl=None).judge()
        assert inside.status == "pass"
        written = case.entropy * (1 - 0.9 * wide)
        assert inside.figures["entropy_allowance"] == pytest.approx(
            wide * case.entropy / written, rel=1e-9
        )
        words = {"averaged": "averages 10 steps", "pieces": "part of", "missing": "16 of the"}
        assert words[why] in (inside.reason or "")

    def test_one_prompt_allows_anything_and_is_no_agreement(self):
        case = Case()
        case.partial = True
        case.rollouts = [
            rollout(int(r.id[1:]), completion_ids=r.completion_ids, mask=r.mask)
            for r in case.rollouts
        ]
        found = case.logged(entropy=case.entropy * 3, kl=None).judge()
        assert found.status == "cannot-tell"
        assert "too little of the batch" in (found.reason or "")
        assert found.figures["entropy_allowance"] is None

    def test_text_tokenised_again_allows_for_its_missing_ends(self):
        case = Case(ids_exact=False)
        share = 16 / len(case.tokens)
        assert case.logged(entropy=case.entropy / (1 + 0.9 * share)).judge().status == "cannot-tell"
        assert case.logged(entropy=case.entropy / 1.04).judge().status == "pass"
        assert case.logged(entropy=case.entropy / (1.12 + share)).judge().status == "fail"
        assert "tokenised again" in (case.judge().reason or "")


class TestPerToken:
    def case(self, off: float, **more: Any) -> Case:
        case = Case()
        for number, each in enumerate(case.rollouts):
            rows = case.tokens[case.tokens["rollout_id"] == each.id]
            values = tuple(-rows["surprisal"] + off * (-1) ** number)
            case.rollouts[number] = rollout(
                number,
                step=STEP,
                completion_ids=each.completion_ids,
                mask=each.mask,
                sampling_logprobs=values,
                **more,
            )
        return case

    @pytest.mark.parametrize(("off", "status"), [(0.012, "pass"), (0.03, "warn"), (0.2, "fail")])
    def test_log_probabilities_decide_before_any_mean(self, off, status):
        found = self.case(off).logged(entropy=99.0).judge()
        assert found.status == status
        assert found.figures["sampling_logprobs_mean_abs_difference"] == pytest.approx(off)

    def test_the_trainers_come_before_the_samplers(self):
        case = self.case(0.2)
        for number, each in enumerate(case.rollouts):
            right = list(case.tokens[case.tokens["rollout_id"] == each.id]["surprisal"])
            case.rollouts[number] = rollout(
                number,
                step=STEP,
                completion_ids=each.completion_ids,
                mask=each.mask,
                sampling_logprobs=each.sampling_logprobs,
                trainer_logprobs=tuple(-s for s in right),
            )
        found = case.judge()
        assert found.status == "pass"
        assert found.figures["sampling_logprobs_mean_abs_difference"] == pytest.approx(0.2)

    def test_completions_of_another_step_do_not_tell(self):
        case = self.case(0.2)
        case.rollouts = [
            rollout(
                n,
                step=STEP - 1,
                completion_ids=r.completion_ids,
                mask=r.mask,
                sampling_logprobs=r.sampling_logprobs,
            )
            for n, r in enumerate(case.rollouts)
        ]
        assert "log-probabilities" not in (case.judge().reason or "")

    def test_tokens_without_a_value_are_left_out(self):
        case = self.case(0.0)
        first = case.rollouts[0]
        values = (math.nan, *(first.sampling_logprobs or ())[1:])
        case.rollouts[0] = rollout(
            0,
            step=STEP,
            completion_ids=first.completion_ids,
            mask=first.mask,
            sampling_logprobs=values,
        )
        assert case.judge().figures["tokens"] == len(case.tokens) - 1


class TestItsOwnSamples:
    """A policy is as surprised by what it sampled as its entropy says; another one is more so."""

    @staticmethod
    def sampled(seed: int, *, sharper: float = 1.0, prompts: int = 8, **given: Any) -> Case:
        """Tokens drawn from softmax(sharper * logits) and replayed under softmax(logits)."""
        rng = np.random.default_rng(seed)
        case = Case(**given)
        rows = len(case.tokens)
        logits = rng.normal(0, 2, (rows, 30))
        replay, sampler = (special.softmax(k * logits, axis=1) for k in (1.0, sharper))
        drawn = [rng.choice(30, p=p) for p in sampler]
        case.tokens["surprisal"] = -np.log(replay[np.arange(rows), drawn])
        case.tokens["entropy"] = stats.entropy(replay, axis=1)
        case.rows = []  # whatever was logged
        case.rollouts = [
            rollout(
                n,
                step=r.step,
                prompt_ids=(1, n % prompts),
                completion_ids=r.completion_ids,
                mask=r.mask,
                ids_exact=r.ids_exact,
            )
            for n, r in enumerate(case.rollouts)
        ]
        return case

    def test_its_own_pass_and_seldom_anything_else(self):
        # 400 replays that are right: a tolerance on top of an interval leaves few alarms.
        judged = [self.sampled(seed).judge() for seed in range(400)]
        assert sum(f.status != "cannot-tell" for f in judged) <= 4
        means = [f.figures["surprise_relative_excess"] for f in judged]
        assert abs(np.mean(means)) < 3 * np.std(means) / math.sqrt(len(means))

    @pytest.mark.parametrize("sharper", [0.3, 3.0], ids=["hotter", "colder"])
    def test_those_of_another_temperature_fail_without_any_log(self, sharper):
        hot = sharper < 1
        judged = [self.sampled(seed, sharper=sharper).judge() for seed in range(20)]
        if hot:
            assert {f.status for f in judged} == {"fail"}
            assert "another policy sampled them" in (judged[0].reason or "")
        else:  # samples that are too sure surprise less, as those of top-p do: no evidence here
            assert {f.status for f in judged} == {"cannot-tell"}
            assert all(f.figures["surprise_relative_excess"] < 0 for f in judged)

    def test_a_failing_log_keeps_its_reason(self):
        case = self.sampled(0, sharper=0.3)
        case.rows = [{"step": STEP + 1, "entropy": 1.06 * case.entropy}]
        found = case.judge()
        assert found.status == "fail"
        assert "replayed" in (found.reason or "")
        assert "another policy" in (found.reason or "")

    def test_samples_of_another_step_say_nothing(self):
        found = self.sampled(0, sharper=0.3, step=STEP - 1).judge()
        assert found.status == "cannot-tell"
        assert "surprise_relative_excess" not in found.figures

    def test_a_text_tokenised_again_may_surprise_more_but_not_by_any_amount(self):
        for seed in range(10):
            assert self.sampled(seed, sharper=0.6).judge().status == "fail"
            assert self.sampled(seed, sharper=0.6, ids_exact=False).judge().status == "cannot-tell"
            assert self.sampled(seed, sharper=0.0, ids_exact=False).judge().status == "fail"

    @pytest.mark.parametrize("prompts", [1, 2, 7])
    def test_few_prompts_say_nothing(self, prompts):
        found = self.sampled(0, sharper=0.3, prompts=prompts).judge()
        assert found.status == "cannot-tell"
        assert found.figures == {}

    def test_where_what_was_cut_off_is_masked_the_rest_is_no_sample(self):
        case = self.sampled(0, sharper=0.3)
        first = case.rollouts[0]
        case.rollouts[0] = dataclasses.replace(first, mask=(False,) * len(first.mask))
        case.tokens = case.tokens[case.tokens["rollout_id"] != first.id]
        assert case.judge().figures == {}

    def test_next_to_no_entropy_is_rounding(self):
        case = Case()
        case.rows = []
        case.tokens["entropy"] = 1e-6
        case.tokens["surprisal"] = 3e-4
        assert case.judge().status == "cannot-tell"


class TestHowATrainerAverages:
    def means(self, case: Case) -> list[float]:
        return list(case.tokens.groupby("rollout_id")["entropy"].mean())

    def test_completion_by_completion(self):
        case = Case()
        case.tokens.loc[case.tokens["rollout_id"] == "r0", "entropy"] *= 30
        mean = math.fsum(self.means(case)) / len(self.means(case))
        assert case.logged(entropy=mean).judge().status != "pass"
        case.micro_batch = 1
        found = case.logged(entropy=mean).judge()
        assert found.status == "pass"
        assert found.figures["entropy_relative_difference"] < 1e-12
        assert case.logged(entropy=mean * 1.2).judge().status == "fail"

    def test_in_larger_parts_it_lies_between(self):
        case = Case()
        case.tokens.loc[case.tokens["rollout_id"] == "r0", "entropy"] *= 30
        ends = sorted([case.entropy, math.fsum(self.means(case)) / len(self.means(case))])
        case.micro_batch = 4
        assert case.logged(entropy=sum(ends) / 2).judge().status == "pass"
        assert case.logged(entropy=ends[0] * 0.8).judge().status == "fail"
        assert case.logged(entropy=ends[1] * 1.2).judge().status == "fail"


class TestFiguresOfAnother:
    def test_a_kl_of_another_reference_is_left_out_and_that_is_said(self):
        case = Case()
        case.of_another = {"kl": "it was of the residual base"}
        found = case.logged(kl=50 * case.kl).judge()
        assert found.status == "pass"
        assert "kl_logged" not in found.figures
        assert "the logged kl is not compared: it was of the residual base" in (found.reason or "")

    def test_where_all_of_it_is_nothing_can_be_told(self):
        case = Case()
        case.of_another = {"kl": "why", "entropy": "why"}
        assert case.judge().status == "cannot-tell"


class TestWhatCannotBeTold:
    def test_without_a_log(self):
        case = Case()
        case.rows = []
        assert case.judge().status == "cannot-tell"

    def test_without_the_batch(self):
        case = Case()
        case.batches = {}
        found = case.judge()
        assert found.status == "cannot-tell"
        assert "step 8 is of completions that were not replayed" in (found.reason or "")
        case.rows = [{"step": 99, "entropy": 1.0}]
        assert "nothing was logged at step 8 or 7" in (case.judge().reason or "")

    def test_without_a_step(self):
        case = Case()
        (found,) = judge_fidelity(
            case.tokens,
            case.rollouts,
            case.entries,
            {NAME: None},
            Logged(rows=case.rows, batches=case.batches, interval=1, partial=False),
        )
        assert (found.checkpoint, found.status) == (NAME, "cannot-tell")


class TestFinding:
    @pytest.mark.parametrize(("status", "level"), [("warn", "warn"), ("fail", "error")])
    def test_a_mismatch_is_one(self, status, level):
        told = Fidelity(checkpoint="7", status=status, figures={"a": 1.0}, reason="off")
        (found,) = mismatch_findings([told])
        assert (found.id, found.level, found.checkpoint) == ("replay-mismatch", level, 7)
        assert found.evidence == {"a": 1.0}

    @pytest.mark.parametrize("status", ["pass", "cannot-tell"])
    def test_the_others_are_none(self, status):
        told = Fidelity(checkpoint="7", status=status, figures={}, reason="")
        assert mismatch_findings([told]) == []


def moved(name: str) -> tuple[float, Case, str, str]:
    """Another value of a cut, a case that it decides, and its status before and after."""
    case = Case()
    per_token, sampled = TestPerToken().case, TestItsOwnSamples.sampled
    kl = case.kl
    match name.removeprefix("fidelity-"):
        case "logprob-warn":
            return 0.01, per_token(0.012), "pass", "warn"
        case "logprob-fail":
            return 0.025, per_token(0.03), "warn", "fail"
        case "entropy-warn":
            return 0.04, case.logged(entropy=case.entropy / 1.049), "pass", "warn"
        case "entropy-fail":
            return 0.055, case.logged(entropy=case.entropy / 1.06), "warn", "fail"
        case "kl-warn":
            return 0.05, case.logged(kl=kl / 1.08), "pass", "warn"
        case "kl-fail":
            return 0.15, case.logged(kl=kl / 1.2), "warn", "fail"
        case "kl-floor":
            case.tokens["log_ratio"] = 1e-5
            return 1e-5, case.logged(kl=4e-4), "pass", "fail"
        case "entropy-floor":
            case.tokens["entropy"] = 0.0384  # as the SmolLM2 sample is at step 45, in two dtypes
            case.tokens["surprisal"] = 0.0384
            return 1e-3, case.logged(entropy=0.0435), "pass", "fail"
        case "surprise-warn":
            return 10, sampled(0, sharper=0.6), "warn", "cannot-tell"
        case "surprise-fail":
            return 10, sampled(0, sharper=0.6), "fail", "warn"
        case "surprise-text":
            return 0, sampled(0, sharper=0.6, ids_exact=False), "cannot-tell", "fail"
        case "surprise-prompts":
            return 7, sampled(0, sharper=0.3, prompts=7), "cannot-tell", "fail"
        case "surprise-floor":
            case.rows = []
            case.tokens["entropy"] = 1e-6
            case.tokens["surprisal"] = 3e-4
            return 1e-6, case, "cannot-tell", "fail"
    raise AssertionError(name)


@pytest.mark.parametrize("cut", FIDELITY_THRESHOLDS, ids=lambda cut: cut.id)
def test_another_value_of_a_cut_changes_what_is_found(cut):
    value, case, before, after = moved(cut.id)
    # What surprises fails by either cut of it: the first is seen where nothing fails.
    lax = {"fidelity-surprise-fail": 10.0} if cut.id == "fidelity-surprise-warn" else {}
    assert case.judge(DEFAULT.replaced(lax)).status == before
    assert case.judge(DEFAULT.replaced(lax | {cut.id: value})).status == after


@pytest.mark.parametrize(
    ("cuts", "named"),
    [({}, True), ({"fidelity-entropy-warn": 0.01}, False), ({"fidelity-kl-warn": 0.9}, False)],
    ids=["by default", "entropy is off", "KL is not off"],
)
def test_the_cuts_say_whether_it_is_the_reference_alone(cuts, named):
    figures = {"entropy_relative_difference": 0.02, "kl_relative_difference": 0.6}
    told = Fidelity(checkpoint="7", status="fail", figures=figures, reason="off")
    (found,) = mismatch_findings([told], DEFAULT.replaced(cuts))
    assert ("--reference" in found.action) == named
