import dataclasses
import random

import pytest

from arca_diag.inputs.selection import Group, default_window, group_entries, select
from tests.inputs import a_run, checkpoint, entry


def groups_at(*steps: int | None, each: int = 1) -> tuple[Group, ...]:
    """Groups of two rollouts, `each` of them at every step, in step order."""
    return group_entries(
        entry(number, id=f"{step}/{place}/{number}", step=step, group_id=f"{step}/{place}")
        for step in steps
        for place in range(each)
        for number in range(2)
    )


def steps_of(groups: tuple[Group, ...]) -> list[int | None]:
    return [g.step for g in groups]


def choose(groups, *checkpoints, own=2, fixed=0, window=1000, keep=()):
    return select(
        groups, checkpoints, own_groups=own, fixed_groups=fixed, window=window, keep_fixed=keep
    )


def own_of(groups, step, **how) -> tuple[Group, ...]:
    return choose(groups, checkpoint(step), **how).own[f"checkpoint-{step}"]


class TestGroups:
    def test_a_group_is_whole_wherever_its_members_lie(self):
        members = [entry(n, group_id=f"g{n % 3}", step=n % 3) for n in range(12)]
        groups = group_entries(members)
        assert [len(g.members) for g in groups] == [4, 4, 4]
        assert steps_of(groups) == [0, 1, 2]
        for group in groups:
            assert group.members == tuple(m.id for m in members if m.group_id == group.id)

    def test_those_without_a_step_come_first(self):
        assert steps_of(groups_at(5, None, 0)) == [None, 0, 5]


class TestOwnSet:
    def test_it_holds_the_nearest_in_steps(self):
        assert steps_of(own_of(groups_at(0, 9, 18, 23, 30, 90), 20, own=3)) == [18, 23, 30]

    def test_a_group_behind_counts_as_one_ahead(self):
        assert steps_of(own_of(groups_at(16, 18, 23), 20, own=2)) == [18, 23]
        assert steps_of(own_of(groups_at(17, 22, 24), 20, own=2)) == [17, 22]

    def test_no_group_is_farther_than_the_window(self):
        groups = groups_at(10, 14, 15, 20, 25, 26, 40)
        assert steps_of(own_of(groups, 20, own=99, window=5)) == [15, 20, 25]
        assert steps_of(own_of(groups, 20, own=99, window=0)) == [20]
        assert own_of(groups, 60, own=99, window=5) == ()

    def test_it_is_never_larger_than_asked(self):
        assert len(own_of(groups_at(*range(50)), 20, own=16)) == 16

    def test_ties_are_cut_by_a_hash_of_the_id_that_never_changes(self):
        """These ids are fixed: another choice would make old results irreproducible."""
        chosen = own_of(groups_at(20, each=6), 20, own=3)
        assert {g.id for g in chosen} == {"20/0", "20/2", "20/5"}

    def test_the_hash_and_not_the_step_settles_a_tie_before_and_behind(self):
        assert steps_of(own_of(groups_at(16, 24), 20, own=1)) == [16]
        assert steps_of(own_of(groups_at(17, 23), 20, own=1)) == [23]

    def test_the_order_of_the_input_does_not_matter(self):
        groups = list(groups_at(*range(0, 40, 4), each=3))
        chosen = choose(tuple(groups), checkpoint(20), own=7, fixed=5)
        for seed in range(5):
            random.Random(seed).shuffle(groups)
            members = [entry(id=m, step=g.step, group_id=g.id) for g in groups for m in g.members]
            again = choose(group_entries(members), checkpoint(20), own=7, fixed=5)
            assert [g.id for g in again.groups()] == [g.id for g in chosen.groups()]
            assert [g.id for g in again.fixed] == [g.id for g in chosen.fixed]

    def test_groups_are_chosen_whole(self):
        chosen = own_of(groups_at(*range(30)), 20, own=5)
        assert [len(g.members) for g in chosen] == [2] * 5

    def test_each_checkpoint_has_its_own(self):
        selection = choose(groups_at(0, 1, 50, 51), checkpoint(0), checkpoint(50), own=2)
        assert steps_of(selection.own["checkpoint-0"]) == [0, 1]
        assert steps_of(selection.own["checkpoint-50"]) == [50, 51]

    def test_a_checkpoint_without_a_step_has_none(self):
        selection = choose(groups_at(0, 1), checkpoint(None, "bare"), fixed=2)
        assert selection.own["bare"] == ()
        assert steps_of(selection.for_checkpoint("bare")) == [0, 1]


class TestFixedSet:
    def test_it_is_spread_evenly_over_the_steps(self):
        chosen = choose(groups_at(*range(0, 101)), fixed=4).fixed
        assert steps_of(chosen) == pytest.approx([12.5, 37.5, 62.5, 87.5], abs=0.5)

    def test_many_groups_at_one_step_do_not_draw_it_there(self):
        crowded = (*groups_at(0, each=50), *groups_at(*range(10, 101, 10)))
        assert steps_of(choose(crowded, fixed=5).fixed) == [10, 30, 50, 70, 90]

    def test_it_is_the_same_whatever_checkpoints_there_are(self):
        groups = groups_at(*range(60), each=2)
        alone = choose(groups, checkpoint(10), fixed=6).fixed
        assert choose(groups, checkpoint(50), checkpoint(7), own=9, fixed=6).fixed == alone

    def test_no_group_is_in_it_twice(self):
        chosen = choose(groups_at(5, 6), fixed=32).fixed
        assert sorted(g.id for g in chosen) == ["5/0", "6/0"]

    def test_none_is_wanted(self):
        assert choose(groups_at(1, 2), fixed=0).fixed == ()

    def test_one_chosen_before_is_kept(self):
        groups = groups_at(*range(40))
        kept = choose(groups, fixed=4, keep=("39/0", "1/0")).fixed
        assert [g.id for g in kept] == ["1/0", "39/0"]

    def test_of_one_chosen_before_what_is_gone_is_left_out(self):
        kept = choose(groups_at(1, 2), fixed=4, keep=("1/0", "gone")).fixed
        assert [g.id for g in kept] == ["1/0"]


class TestWithoutSteps:
    def test_rollouts_serve_the_fixed_set_alone(self):
        selection = choose(groups_at(None, each=8), checkpoint(20), own=4, fixed=3)
        assert selection.own["checkpoint-20"] == ()
        assert len(selection.fixed) == 3
        assert selection.groups() == selection.fixed

    def test_which_ones_is_settled_by_the_hash_alone(self):
        """These ids are fixed: another choice would make old results irreproducible."""
        chosen = choose(groups_at(None, each=8), fixed=3).fixed
        assert {g.id for g in chosen} == {"None/1", "None/3", "None/7"}

    def test_groups_with_steps_count_before_those_without(self):
        assert steps_of(choose(groups_at(None, 3, 4, each=2), fixed=4).fixed) == [3, 3, 4, 4]


class TestWhatIsReplayed:
    def test_a_group_in_both_sets_is_there_once_and_in_step_order(self):
        selection = choose(groups_at(*range(0, 40, 2)), checkpoint(20), own=3, fixed=40)
        seen = [g.id for g in selection.for_checkpoint("checkpoint-20")]
        assert len(seen) == len(set(seen)) == 20
        assert steps_of(selection.groups()) == list(range(0, 40, 2))

    def test_a_checkpoint_is_given_its_own_and_the_fixed_set_only(self):
        groups = groups_at(*range(41))
        selection = choose(groups, checkpoint(0), checkpoint(40), own=2, fixed=1)
        assert steps_of(selection.for_checkpoint("checkpoint-40")) == [20, 39, 40]
        assert steps_of(selection.groups()) == [0, 1, 20, 39, 40]


class TestDefaultWindow:
    @pytest.mark.parametrize(
        ("steps", "logging", "window"),
        [
            (1000, 1, 100),
            (1001, 1, 101),  # a tenth, and no less
            (100, 1, 10),
            (100, 5, 10),
            (100, 10, 20),  # two logging intervals
            (5, 1, 2),
            (1, 1, 2),
        ],
    )
    def test_it_is_a_tenth_of_the_run_and_at_least_two_logging_intervals(
        self, steps, logging, window
    ):
        run = a_run(steps=steps, logging_steps=logging)
        assert default_window(run, groups_at(0, 1)) == window

    def test_what_the_run_does_not_say_is_read_from_the_rollouts(self):
        assert default_window(a_run(), groups_at(0, 20, 30, 400)) == 40
        assert default_window(a_run(), groups_at(0, 30, 60)) == 60

    def test_the_run_is_believed_before_the_rollouts(self):
        run = dataclasses.replace(a_run(), steps=1000, logging_steps=2)
        assert default_window(run, groups_at(0, 300)) == 100

    def test_nothing_known_is_still_a_window(self):
        assert default_window(a_run(), groups_at(None)) == 2
