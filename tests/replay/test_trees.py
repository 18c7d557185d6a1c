"""Trees of prefixes: every sequence can be read back, and each prefix stands once where it pays."""

from hypothesis import given
from hypothesis import strategies as st

from arca_diag.replay.trees import Row, grow

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=10)


def read_back(row: Row) -> list[list[int]]:
    return [[row.ids[node] for node in path] for path in row.paths]


@given(SEQUENCES, st.integers(1, 40))
def test_every_sequence_is_read_back_in_order(sequences, longest) -> None:
    ordered = sorted(sequences)
    assert [s for row in grow(ordered, longest=longest) for s in read_back(row)] == ordered


@given(SEQUENCES)
def test_a_node_is_seen_by_itself_and_by_what_is_below_it(sequences) -> None:
    for row in grow(sorted(sequences), longest=1000):
        for path in row.paths:
            for place, node in enumerate(path):
                seen = [n for n in range(node + 1) if node < row.end[n]]
                assert seen == path[: place + 1]
                assert row.depth[node] == place


@given(SEQUENCES)
def test_where_there_is_room_every_distinct_prefix_stands_once(sequences) -> None:
    begun_alike = sorted([9, *s] for s in sequences)
    (row,) = grow(begun_alike, longest=1000)
    prefixes = {tuple(s[:n]) for s in begun_alike for n in range(1, len(s) + 1)}
    assert len(row.ids) == len(prefixes)


@given(SEQUENCES, st.integers(1, 20))
def test_no_row_is_longer_than_allowed_unless_one_sequence_is(sequences, longest) -> None:
    for row in grow(sorted(sequences), longest=longest):
        assert len(row.ids) <= longest or row.is_chain


def test_what_shares_nothing_stands_apart() -> None:
    assert len(grow([[1, 2], [3, 4]], longest=1000)) == 2


def test_a_row_stops_growing_where_attention_would_cost_more_than_a_second_prompt() -> None:
    prompt = [1] * 10
    many = [[*prompt, n, *[n] * 199] for n in range(2, 60)]
    # Joining costs 2 * 200 * (210 - 10) pairs and saves 10 * (1024 + 10).
    assert [len(row.paths) for row in grow(many, longest=100_000)] == [1] * len(many)
    short = [[*prompt, n, n] for n in range(2, 2000)]
    # Four new pairs a node: n - 10 may reach 10 * 1034 / 4 = 2585 nodes.
    assert max(len(row.ids) for row in grow(short, longest=100_000)) in range(2580, 2600)


def test_a_chain_is_told_from_a_tree() -> None:
    (chain,) = grow([[1, 2], [1, 2], [1, 2, 3]], longest=100)
    assert chain.is_chain
    (tree,) = grow([[1, 2], [1, 3]], longest=100)
    assert not tree.is_chain
