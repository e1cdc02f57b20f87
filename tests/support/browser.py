"""Pages in a real browser: Debian's Chromium, driven by playwright, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

__all__ = ["Opened", "chromium", "opened"]

AXE = Path(__file__).parent / "axe" / "axe.min.js"


@dataclass(kw_only=True)
class Opened:
    """A page in the browser; what was asked for, and what the console said."""

    page: Any
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def violations(self) -> list[str]:
        """What axe finds, each with the first element that it is about."""
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@contextmanager
def chromium() -> Iterator[Any]:
    """The browser; skips where there is none."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened(
    browser: Any,
    place: Path | str,
    *,
    width: int = 1400,
    scheme: Literal["light", "dark"] = "light",
    axe: bool = False,
    script: bool = True,
) -> Iterator[Opened]:
    """A page from disk; with ``axe`` its policy is passed over, so that axe can run in it."""
    address = place.as_uri() if isinstance(place, Path) else place
    context = browser.new_context(
        viewport={"width": width, "height": 1000},
        color_scheme=scheme,
        offline=True,
        bypass_csp=axe,
        java_script_enabled=script,
    )
    try:
        found = Opened(page=context.new_page())
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
        found.page.on("dialog", lambda dialog: found.errors.append(f"a script ran: {dialog.message}"))
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.goto(address)
        yield found
    finally:
        context.close()
