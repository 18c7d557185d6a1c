"""A real browser for a page: Debian's Chromium, driven by Playwright. Nothing is downloaded."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

#: A folder for what a person looks at afterwards; a test's own folder without it.
ARTEFACTS = "ARCA_DIAG_ARTEFACTS"
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def program(name: str, package: str) -> str:
    """The path of a program that these tests need; a failure that says what to install."""
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is missing: apt-get update && apt-get install --yes {package}")
    return path


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that is closed afterwards."""
    path = program("chromium", "chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            yield found
        finally:
            found.close()


@dataclass
class Opened:
    """A page in a browser, and everything that it did besides showing itself."""

    page: Page
    url: str
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def is_quiet(self) -> None:
        """Nothing went wrong, nothing was asked for, and nobody was spoken to."""
        assert self.complaints == []
        assert [r for r in self.requests if r != self.url and not r.startswith("data:")] == []
        assert self.dialogs == []


@contextmanager
def opened(
    found: Browser, path: Path, *, width: int = 1280, dark: bool = False, script: bool = True
) -> Iterator[Opened]:
    """A page that is open in a window of its own."""
    context = found.new_context(
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=script,
    )
    try:
        page = context.new_page()
        out = Opened(page, path.as_uri())
        context.on("request", lambda request: out.requests.append(request.url))
        page.on("console", lambda message: out.complaints.append(message.text))
        page.on("pageerror", lambda error: out.complaints.append(str(error)))
        page.on("websocket", lambda socket: out.requests.append(socket.url))
        page.on("popup", lambda popup: out.complaints.append(f"a window: {popup.url}"))

        def answer(dialog) -> None:
            out.dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", answer)
        page.goto(out.url)
        yield out
    finally:
        context.close()


def artefacts(own: Path) -> Path:
    """The folder for pictures; where it is, is said."""
    folder = Path(os.environ.get(ARTEFACTS) or own)
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\npictures of the page: {folder}", file=sys.__stdout__)
    return folder
