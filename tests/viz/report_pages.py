"""A report in a real browser: opened from disk, watched for errors and for anything that it asks the network."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"


def need(module: str) -> Any:
    """The module, or a skip that cannot be overlooked."""
    return pytest.importorskip(
        module, reason=f"REPORT PAGES NOT TESTED: {module} is missing; pip install 'graphopt[test]'"
    )


def chromium() -> str:
    """Path of the browser, or a skip that cannot be overlooked."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("REPORT PAGES NOT TESTED: no chromium here; apt-get install chromium")


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium, for as long as the block lasts."""
    api = need("playwright.sync_api")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield started
        finally:
            started.close()


@dataclasses.dataclass
class Opened:
    """A report that is open in the browser.

    Attributes:
        page: the browser's page.
        problems: what the page wrote to the console as an error or warning, and what it threw.
        requests: what it asked for beside itself.
    """

    page: Any
    problems: list[str]
    requests: list[str]

    def drawn(self, side: str = "after") -> list[dict[str, Any]]:
        """What a pane draws, with its place in the window."""
        found: list[dict[str, Any]] = self.page.evaluate("side => graphopt.drawn(side)", side)
        return found

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.page.evaluate("graphopt.state()")
        return found

    def lit(self) -> set[str]:
        return set(self.page.evaluate("graphopt.lit()"))

    def wait(self, expression: str, argument: Any = None) -> None:
        """Until the page says that this holds. (The page's policy forbids the wait that evaluates text.)"""
        end = time.monotonic() + 10
        while not self.page.evaluate(f"argument => {expression}", argument):
            assert time.monotonic() < end, f"{expression} does not come true"
            time.sleep(0.02)

    def settle(self) -> None:
        """Until what was last done is drawn: the page draws in the frame after."""
        self.page.evaluate(
            "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"
        )

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def click(self, item: dict[str, Any], times: int = 1) -> None:
        """Click the middle of what `drawn` gave."""
        self.page.mouse.click(
            item["x"] + item["width"] / 2, item["y"] + item["height"] / 2, click_count=times
        )
        self.settle()

    def links(self, kind: str) -> list[str]:
        """Titles (full names) of the nodes in a list of the panel: origins or heirs."""
        return [
            str(link.get_attribute("title"))
            for link in self.page.locator(f"[data-list={kind}] .node-link").all()
        ]

    def is_quiet(self) -> None:
        """Assert that nothing went wrong and nothing was asked of any network."""
        assert self.problems == []
        assert self.requests == []


@contextmanager
def opened(browser: Any, path: Path, fragment: str = "", **options: Any) -> Iterator[Opened]:
    """Open a report; when the block ends well, assert that it was quiet all the time."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
    try:
        page = context.new_page()
        report = Opened(page, [], [])
        address = path.resolve().as_uri()
        page.on(
            "console",
            lambda said: report.problems.append(said.text) if said.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: report.problems.append(str(error)))
        page.on("dialog", lambda dialog: report.problems.append(f"dialog: {dialog.message}"))
        page.on(
            "request",
            lambda asked: report.requests.append(asked.url) if not asked.url.startswith(address) else None,
        )
        page.goto(address + fragment)
        page.wait_for_selector("canvas", timeout=30_000)
        yield report
        report.is_quiet()
    finally:
        context.close()


def serious(report: Opened) -> list[str]:
    """What axe-core holds against the page, of the two worst kinds."""
    if not AXE.exists():
        pytest.skip("ACCESSIBILITY NOT TESTED: axe-core is missing; cd web && npm ci")
    report.page.evaluate(AXE.read_text(encoding="utf-8"))
    result = report.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{found['id']}: {node['target']} {node['failureSummary']}"
        for found in result["violations"]
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]
