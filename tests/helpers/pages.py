"""A report as a person sees it: in a browser's window, with what the browser had to say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from analysis.prediction.costs import Costs
from analysis.prediction.parts import hop


@dataclass
class Report:
    """An open report.

    Parameters
    ----------
    page
        The window.
    said
        What the console says, errors of the script among it.
    asked
        Addresses that the page asks for, its own file apart.
    """

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    @classmethod
    @contextmanager
    def opened(cls, browser: Browser, file: Path, **looks: Any) -> Iterator[Report]:
        """Open a file, and hold at the end that nothing was said or asked for.

        `looks` are ``width`` and what else a context of Playwright takes, such as ``color_scheme``.
        """
        size = {"width": looks.pop("width", 1280), "height": 900}
        context = browser.new_context(viewport=size, **looks)
        page = context.new_page()
        page.set_default_timeout(10_000)
        report = cls(page)
        page.on("console", lambda message: report.said.append(message.text))
        page.on("pageerror", lambda error: report.said.append(str(error)))
        page.on("dialog", lambda dialog: report.said.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: report.asked.append(request.url))
        page.goto(file.as_uri())
        yield report
        assert report.said == []
        assert report.asked == [file.as_uri()]
        context.close()

    def texts(self, selector: str) -> list[str]:
        """The texts of the elements, as they are read."""
        return self.page.locator(selector).all_inner_texts()

    def count(self, selector: str) -> int:
        """How many elements there are."""
        return self.page.locator(selector).count()

    def slide(self, name: str, value: str) -> None:
        """Move a slider to the place at which it says `value`."""
        slider = self.page.locator(f"#whatif-{name}")
        for place in range(int(slider.get_attribute("max") or 0) + 1):
            slider.fill(str(place))
            if slider.get_attribute("aria-valuetext") == value:
                return
        raise AssertionError(f"the slider {name} never says {value}")

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        return int(self.page.evaluate(wide))


def over(made: Costs, rate_mbit: float, delay_ms: float) -> Costs:
    """The same pipeline over other hops, as the page computes it."""
    hops = tuple(hop(rate_mbit, delay_ms, one) for one in made.hops)
    back = tuple(one and hop(rate_mbit, delay_ms, one) for one in made.back)
    return replace(made, hops=hops, back=back)
