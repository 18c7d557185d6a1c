"""Where a replay runs and in what precision; the marked tests need the device itself."""

from pathlib import Path

import numpy as np
import pytest
import torch

from arca_diag.config import resolve as configured
from arca_diag.errors import ConfigError
from arca_diag.pipeline import diagnose
from arca_diag.replay.device import BATCH_TOKENS, resolve
from arca_diag.saved import read_tables
from tests.conftest import UNRENDERED

SIGNALS = ["surprisal", "entropy", "kl_exact", "residual"]


class TestResolve:
    def test_a_cpu_replays_in_float32_unless_asked(self) -> None:
        assert resolve("auto", "cpu") == ("float32", "cpu")
        assert resolve("bfloat16", "cpu") == ("bfloat16", "cpu")

    def test_auto_takes_what_is_there(self) -> None:
        dtype, device = resolve("auto", "auto")
        assert device in BATCH_TOKENS
        assert dtype == ("float32" if device == "cpu" else "bfloat16")

    @pytest.mark.parametrize("device", ["cuda", "mps"])
    def test_a_device_that_is_not_there_is_said_so(self, device, monkeypatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(ConfigError, match=f"--device {device}: PyTorch finds none") as caught:
            resolve("auto", device)
        assert "--device cpu" in caught.value.hint

    def test_mps_has_no_float64(self, monkeypatch) -> None:
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        with pytest.raises(ConfigError, match="MPS does not have it"):
            resolve("float64", "mps")


def scanned(run: Path, out: Path, **options: object):
    """The tokens of a small scan."""
    flags = {"run": run, "out": out, "groups": 1, "fixed_groups": 1, **options}
    found = diagnose(configured(flags, environ=UNRENDERED))
    return read_tables(found.folder, found.report).tokens


@pytest.mark.slow
def test_bfloat16_runs_and_is_coarser_than_float32(tiny_run: Path, tmp_path: Path) -> None:
    fine = scanned(tiny_run, tmp_path / "fine", dtype="float32")
    coarse = scanned(tiny_run, tmp_path / "coarse", dtype="bfloat16")
    apart = np.abs(fine["surprisal"] - coarse["surprisal"])
    assert 1e-4 < apart.mean() < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_gives_the_numbers_of_the_cpu(tiny_run: Path, tmp_path: Path, device) -> None:
    resolve("float32", device)  # fails loudly where the device is not there
    here = scanned(tiny_run, tmp_path / "cpu", device="cpu", dtype="float32")
    there = scanned(tiny_run, tmp_path / device, device=device, dtype="float32")
    for name in SIGNALS:
        assert np.abs(here[name] - there[name]).max() < 1e-3, name
