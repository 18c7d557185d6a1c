"""Render the reports that the samples carry, and the README's pictures of them.

    make demo && arca-diag demo
    python sample_runs/pages.py demo-result arca-diag-demo

Needs Playwright's Python package and Chromium, for the pictures alone.
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from arca_diag import rendering, saved, store

SAMPLES = Path(__file__).parent
#: Sample with pictures -> part of its page, as CSS selects it -> name of its picture.
PICTURES = {"smollm2-addition": {"#trend-over-the-run figure": "trend", "#tokens": "tokens"}}


def main(results: list[str]) -> None:
    """Write report.html and report.pdf of each result into the folder of its sample."""
    for folder in map(Path, results):
        found = store.look(folder)
        if found is None or found.report is None:
            sys.exit(f"{folder} holds no finished result")
        pages = rendering.pages(found.report, saved.read_tables(folder, found.report))
        out = SAMPLES / found.report.run.name / "report"
        out.mkdir(exist_ok=True)
        (out / rendering.HTML).write_bytes(pages.html())
        (out / rendering.PDF).write_bytes(pages.pdf())
        wanted = PICTURES.get(found.report.run.name, {})
        if wanted:
            take(out, wanted)


def take(folder: Path, wanted: dict[str, str]) -> None:
    """Pictures of parts of a page, as a browser shows them."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light")
        page.goto((folder / rendering.HTML).resolve().as_uri())
        for part, name in wanted.items():
            page.locator(part).first.screenshot(path=folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
