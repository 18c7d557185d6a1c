"""Finished passes on disk: found only where nothing has moved, and never believed if damaged."""

import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from arca_diag.errors import CheckpointError
from arca_diag.inputs.rollouts.record import Rollout
from arca_diag.progress import Silent
from arca_diag.replay.adapted import AdaptedModel
from arca_diag.replay.batches import Work, plan
from arca_diag.replay.forward import replay
from arca_diag.replay.gradients import measure_gradients
from arca_diag.replay.layers import layer_residuals
from arca_diag.replay.scores import Replayed
from arca_diag.replay.units import Shelf, Units, open_shelf
from tests.replay.test_forward import COLUMNS, load, new_adapter, small_llama
from tests.replay.test_sharing import groups

NAMES = ("checkpoint-1", "checkpoint-2")
LAYOUT = {"x": ((2,), torch.float64)}


def shelf(folder: Path, limit: int | None = None) -> Shelf:
    found = open_shelf(folder, limit)
    assert found is not None
    return found


def units(folder: Path, **conditions: object) -> Units:
    return Units(shelf=shelf(folder), conditions=conditions)


def values(*numbers: float) -> dict[str, Tensor]:
    return {"x": torch.tensor(numbers, dtype=torch.float64)}


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("*.safetensors")
    return path


# A shelf.


def test_what_was_kept_is_found_again_bit_for_bit(tmp_path: Path) -> None:
    units(tmp_path, base="b").keep({"batch": "1"}, values(1 / 3, -0.0))
    again = units(tmp_path, base="b")
    again.keep({"batch": "2"}, values(5, 6))
    assert again.find({"batch": "2"}, LAYOUT) is not None  # of this scan: it was run here
    found = again.find({"batch": "1"}, LAYOUT, passes=3)
    assert found is not None
    assert found["x"].numpy().tobytes() == values(1 / 3, -0.0)["x"].numpy().tobytes()
    assert again.shelf.reused == 3


@pytest.mark.parametrize(
    ("conditions", "what"),
    [({"base": "c"}, {"batch": "1"}), ({"base": "b"}, {"batch": "2"}), ({}, {"batch": "1"})],
)
def test_anything_else_is_another_unit(tmp_path: Path, conditions: Any, what: Any) -> None:
    units(tmp_path, base="b").keep({"batch": "1"}, values(1, 2))
    other = units(tmp_path, **conditions)
    assert other.find(what, LAYOUT) is None
    assert other.shelf.reused == 0


def test_another_version_of_a_library_is_another_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    units(tmp_path).keep({}, values(1, 2))
    monkeypatch.setattr("arca_diag.replay.units._versions", lambda: {"torch": "0.0.1"})
    assert units(tmp_path).find({}, LAYOUT) is None


def test_the_folder_and_its_files_are_for_their_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    units(folder).keep({}, values(1, 2))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(the_file(folder).stat().st_mode) == 0o600
    folder.chmod(0o755)
    shelf(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_folder_that_is_a_link_or_a_file_or_cannot_be_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name in ("link", "file", "file/below"):
        assert open_shelf(tmp_path / name) is None


def damaged(path: Path) -> dict[str, bytes]:
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[40] ^= 1
    return {
        "empty": b"",
        "short": whole[:5],
        "cut": whole[:-1],
        "a huge header": b"\xff" * 8 + whole[8:],
        "no header": (2).to_bytes(8, "little") + b"{}" + whole,
        "no metadata": (4).to_bytes(8, "little") + b"[[]]",
        "deep": (200_000).to_bytes(8, "little") + b"[" * 200_000,
        "flipped": bytes(flipped),
        "text": b"hello, world: no tensors here",
    }


@pytest.mark.parametrize("how", sorted(damaged(Path(__file__))))
def test_a_damaged_file_is_as_good_as_none_and_written_anew(tmp_path: Path, how: str) -> None:
    first = units(tmp_path)
    first.keep({"batch": "1"}, values(1, 2))
    path = the_file(tmp_path)
    path.write_bytes(damaged(path)[how])
    assert first.find({"batch": "1"}, LAYOUT) is None
    first.keep({"batch": "1"}, values(1, 2))
    assert first.find({"batch": "1"}, LAYOUT) is not None


@pytest.mark.parametrize(
    "tensors",
    [
        {"x": torch.zeros(3, dtype=torch.float64)},
        {"x": torch.zeros(2, dtype=torch.float32)},
        {"x": torch.tensor([0.0, np.nan], dtype=torch.float64)},
        {"x": torch.tensor([0.0, np.inf], dtype=torch.float64)},
        {"y": torch.zeros(2, dtype=torch.float64)},
        {"x": torch.zeros(2, dtype=torch.float64), "y": torch.zeros(1)},
    ],
)
def test_tensors_that_cannot_be_those_are_not_believed(tmp_path: Path, tensors: Any) -> None:
    units(tmp_path).keep({}, tensors)
    assert units(tmp_path).find({}, LAYOUT) is None


def test_a_unit_under_the_name_of_another_is_not_believed(tmp_path: Path) -> None:
    one = units(tmp_path)
    one.keep({"batch": "1"}, values(1, 2))
    content = the_file(tmp_path).read_bytes()
    the_file(tmp_path).unlink()
    one.keep({"batch": "2"}, values(3, 4))
    the_file(tmp_path).write_bytes(content)
    assert one.find({"batch": "2"}, LAYOUT) is None


def test_a_link_in_a_units_place_is_not_followed(tmp_path: Path) -> None:
    one = units(tmp_path / "shelf")
    one.keep({}, values(1, 2))
    path = the_file(tmp_path / "shelf")
    os.replace(path, tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert one.find({}, LAYOUT) is None
    one.keep({}, values(3, 4))
    assert not path.is_symlink()
    assert load_file(tmp_path / "elsewhere")["x"].tolist() == [1, 2]


def test_over_its_limit_the_oldest_go_and_none_of_this_scan(tmp_path: Path) -> None:
    one = units(tmp_path)
    for number in range(4):
        one.keep({"batch": number}, values(number, 0))
        newest = max(tmp_path.iterdir(), key=lambda p: p.stat().st_ctime_ns)
        os.utime(newest, (number, number))
    size = sum(p.stat().st_size for p in tmp_path.iterdir()) // 4
    full = Units(shelf=shelf(tmp_path, limit=4 * size + 20))
    assert full.find({"batch": 0}, LAYOUT) is not None  # used: the oldest no more
    full.keep({"batch": 9}, values(9, 0))
    again = units(tmp_path)
    there = [n for n in (0, 1, 2, 3, 9) if again.find({"batch": n}, LAYOUT)]
    assert there == [0, 2, 3, 9]
    small = Units(shelf=shelf(tmp_path, limit=size + 20))
    small.keep({"batch": 10}, values(1, 1))
    small.keep({"batch": 11}, values(1, 1))
    assert len(list(tmp_path.iterdir())) == 1  # the second does not fit beside the first


def test_a_disk_that_is_full_costs_the_unit_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    one = units(tmp_path)
    monkeypatch.setattr(os, "replace", full)
    one.keep({}, values(1, 2))
    assert list(tmp_path.iterdir()) == []


# A replay.


def adapted(tmp_path: Path, names: tuple[str, ...] = NAMES, **options: Any) -> AdaptedModel:
    base = tmp_path / "base"
    if not base.exists():
        small_llama(base)
        for seed, name in enumerate((*NAMES, "checkpoint-3")):
            new_adapter(base, tmp_path / name, seed=seed, target_modules=["q_proj", "down_proj"])
    return load(base, *(tmp_path / name for name in names), **options)


class Counting(Silent):
    """Tokens that went through, and those that were found."""

    def __init__(self) -> None:
        self.run = self.found = 0

    def advance(self, done: int) -> None:
        self.run += done

    def reused(self, done: int) -> None:
        self.found += done


def replayed(
    model: AdaptedModel,
    where: Units,
    names: tuple[str, ...] = NAMES,
    rollouts: list[Rollout] | None = None,
    **options: Any,
) -> tuple[list[Replayed], Counting]:
    heard = Counting()
    work = [Work(rollout=r, checkpoints=names, fixed=True) for r in rollouts or groups(19)]
    given = {"temperature": 1.0, "keep": {(NAMES[0], "1/3")}} | options
    batches = plan(work, 40, share=True)
    assert len(batches) > 1
    return list(replay(model, batches, progress=heard, units=where, **given)), heard


def assert_equal(found: list[Replayed], expected: list[Replayed]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one.rollout, one.checkpoint) == (other.rollout, other.checkpoint)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.shift, other.shift)


def test_a_second_replay_runs_nothing_and_gives_the_same(tmp_path: Path) -> None:
    first, ran = replayed(adapted(tmp_path), units(tmp_path / "u"))
    where = units(tmp_path / "u")
    second, heard = replayed(adapted(tmp_path), where)
    assert (heard.run, heard.found) == (0, ran.run)
    assert_equal(second, first)
    assert where.shelf.reused == len(list((tmp_path / "u").iterdir()))
    assert any(r.shift is not None for r in second)


def test_a_new_checkpoint_costs_one_pass_and_no_reference(tmp_path: Path) -> None:
    every = (*NAMES, "checkpoint-3")
    _, ran = replayed(adapted(tmp_path), units(tmp_path / "u"))
    found, heard = replayed(adapted(tmp_path, every), units(tmp_path / "u"), every)
    assert (heard.run, heard.found) == (ran.run // 3, ran.run)
    anew, _ = replayed(adapted(tmp_path, every), Units(), every)
    assert_equal(found, anew)


@pytest.mark.parametrize("lost", range(6))
def test_whatever_is_lost_is_run_again_and_nothing_else(tmp_path: Path, lost: int) -> None:
    first, ran = replayed(adapted(tmp_path), units(tmp_path / "u"))
    paths = sorted((tmp_path / "u").iterdir())
    assert len(paths) == 6
    paths[lost].unlink()
    second, heard = replayed(adapted(tmp_path), units(tmp_path / "u"))
    assert 0 < heard.run < ran.run
    assert heard.run + heard.found == ran.run
    assert_equal(second, first)
    assert len(list((tmp_path / "u").iterdir())) == 6


@pytest.mark.parametrize(
    "other",
    [{"temperature": 0.7}, {"keep": {(NAMES[1], "1/3")}}, {"rollouts": groups(18)}],
    ids=["temperature", "shifts", "tokens"],
)
def test_what_moves_a_number_or_is_asked_for_beside_is_another_unit(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    replayed(adapted(tmp_path), units(tmp_path / "u"))
    model = adapted(tmp_path)
    found, _ = replayed(model, units(tmp_path / "u"), **other)
    anew, _ = replayed(model, Units(), **other)
    assert_equal(found, anew)


def test_an_adapter_of_other_content_or_configuration_is_another_unit(tmp_path: Path) -> None:
    model = adapted(tmp_path)
    contents = {model.content_of(name) for name in (*NAMES, None)}
    assert len(contents) == 3
    config = tmp_path / NAMES[0] / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 6', '"lora_alpha": 7'))
    assert adapted(tmp_path).content_of(NAMES[0]) not in contents


def test_numbers_that_are_not_finite_are_never_kept(tmp_path: Path) -> None:
    adapted(tmp_path)
    path = tmp_path / NAMES[1] / "adapter_model.safetensors"
    save_file({k: 1e30 * v for k, v in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=NAMES[1]):
        replayed(adapted(tmp_path, dtype=torch.float32), units(tmp_path / "u"))
    names = {p.name for p in (tmp_path / "u").iterdir()}
    with pytest.raises(CheckpointError, match=NAMES[1]):
        replayed(adapted(tmp_path, dtype=torch.float32), units(tmp_path / "u"))
    assert {p.name for p in (tmp_path / "u").iterdir()} == names


def test_layers_and_gradients_are_found_again(tmp_path: Path) -> None:
    chosen = {name: tuple(groups(19)[:3]) for name in NAMES}

    def looked(where: Units) -> tuple[list[Any], list[Any], int]:
        model, heard = adapted(tmp_path), Counting()
        layers = list(layer_residuals(model, chosen, heard, where))
        found = list(measure_gradients(model, chosen, temperature=0.9, progress=heard, units=where))
        return layers, found, heard.run

    *first, ran = looked(units(tmp_path / "u"))
    where = units(tmp_path / "u")
    *second, again = looked(where)
    assert ran > 0
    assert again == 0
    assert where.shelf.reused == 2 * 3 * 2 + 2 * 3
    for one, other in zip([*first[0], *first[1]], [*second[0], *second[1]], strict=True):
        assert one.checkpoint == other.checkpoint
        assert one.rollout is other.rollout or one.rollout == other.rollout
        for name in ("residual", "ref_norm", "layer", "gradient_norm", "output_factor", "position"):
            if hasattr(one, name):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
