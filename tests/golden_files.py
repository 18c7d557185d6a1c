"""Text that is compared with a file of tests/golden, so that a change of it shows as a diff.

Write the files anew with

    ARCA_DIAG_GOLDEN=write python -m pytest tests/test_golden.py

then look at the diff. In CI nothing is written.
"""

import os
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Compare a text with its file, or write it where that is asked for and allowed."""
    path = GOLDEN / name
    if os.environ.get("ARCA_DIAG_GOLDEN") == "write":
        if os.environ.get("CI"):
            pytest.fail("golden files are not written in CI: write them where you can look at them")
        path.write_text(text, "utf-8")
        return
    if not path.is_file():
        pytest.fail(f"{path} is missing: write it with ARCA_DIAG_GOLDEN=write")
    assert text == path.read_text("utf-8")
