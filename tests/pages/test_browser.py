"""The HTML report and show() in a headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qa_fast
from qa_fast.data.answers import Prediction
from qa_fast.pages.report import write_report

from ..helpers.hostile import HOSTILE, LONG, hostile_evaluation

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Chromium or its chromedriver is not installed"
)


class Page:
    """A page in the browser."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, path: Path, *, width: int = 1280, dark: bool = False) -> None:
        self.driver.get("about:blank")
        self.driver.get_log("browser")  # what was there is forgotten
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(path.as_uri())

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def filter(self, name: str) -> list[str]:
        """The questions that a filter leaves in the list."""
        self.run("document.querySelector(`input[value='${arguments[0]}']`).click()", name)
        return self.run(
            "return [...document.querySelectorAll('#list .question')].map(q => q.textContent)"
        )

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def wait(self) -> None:
        """Until queued events and timers have run."""
        self.run("return new Promise(done => setTimeout(done, 300))")

    def check_clean(self) -> None:
        """No error, no warning, no script of the data, nothing loaded, nothing wider than the page."""
        assert self.driver.get_log("browser") == []
        assert self.run("return window.pwned") is None
        assert self.run("return performance.getEntriesByType('resource').length") == 0
        assert self.run("return document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('profile')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(30)
    driver.set_script_timeout(30)
    yield Page(driver)
    driver.quit()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(hostile_evaluation(), path, title=next(iter(HOSTILE.values())))
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_hostile_texts_are_shown_and_do_nothing(page: Page, hostile: Path, width: int) -> None:
    page.open(hostile, width=width)
    page.run(
        "for (const example of document.querySelectorAll('#list details')) example.open = true"
    )
    page.wait()
    assert len(page.all("#list .body")) == len(HOSTILE) + 3
    shown = page.run(
        "return [...document.querySelectorAll('#list li')].map(item => ["
        "item.querySelector('.question').textContent, item.querySelector('.context').textContent,"
        "[...item.querySelectorAll('.context mark.predicted')].map(m => m.textContent).join(''),"
        "item.querySelector('td.wide')?.textContent ?? null])"
    )
    for (name, text), (question, context, predicted, best) in zip(
        HOSTILE.items(), shown, strict=False
    ):
        assert question == f"Which {name}? {text}"
        assert context == f"🤗 before {text} after Ada {text}"
        assert predicted == best == text
    page.check_clean()


def test_a_megabyte_is_cut_around_the_answer_until_asked_for(page: Page, hostile: Path) -> None:
    page.open(hostile)
    (item,) = [li for li in page.all("#list li") if "Who?" in li.text]
    item.find_element("css selector", "summary").click()
    page.wait()
    context = item.find_element("css selector", ".context")
    assert len(context.text) < 2000
    assert "wor🤗d Ada wor🤗d" in context.text
    button = item.find_element("css selector", "button")
    utf16 = 2 * len(LONG.encode("utf-16-le")) // 2 + 4
    assert button.text == f"Show the whole text ({utf16:,} characters)"
    button.click()
    length = page.run("return arguments[0].querySelector('.context').textContent.length", item)
    assert length == utf16
    page.check_clean()


def expected(found: Any, keep: Callable[[int], bool]) -> list[str]:
    return [example.question for i, example in enumerate(found.examples) if keep(i)]


def test_filters_search_and_order(page: Page, tmp_path: Path) -> None:
    rows, predictions = [], []
    for i in range(40):
        golds = [] if i % 4 == 0 else [f"word{i}"]
        rows.append(
            {"id": str(i), "question": f"Q{i}?", "context": f"a word{i} b", "answers": golds}
        )
        answer = "" if i % 5 == 0 else f"word{i}" if i % 3 else "b"
        predictions.append(Prediction(str(i), answer, score=i / 40))
    found = qa_fast.evaluate(rows, predictions, scoring="shared")
    write_report(found, tmp_path / "r.html")
    page.open(tmp_path / "r.html")
    exact, confidence = found.scores.exact, [i / 40 for i in range(40)]
    assert page.filter("wrong") == expected(found, lambda i: not exact[i])
    assert page.filter("right") == expected(found, lambda i: bool(exact[i]))
    assert page.filter("no-answer") == expected(found, lambda i: (i % 4 == 0) != (i % 5 == 0))
    assert page.filter("unsure") == expected(found, lambda i: confidence[i] < 0.5)
    labels = [chip.text for chip in page.all(".chip")]
    assert labels[1:3] == [f"Wrong {exact.count(0)}", f"Right {exact.count(1)}"]
    page.filter("all")
    page.run("order.value = 'sure'; order.dispatchEvent(new Event('change'))")
    assert page.all("#list .question")[0].text == "Q39?"
    page.press("/", "word7")
    page.wait()
    assert [question.text for question in page.all("#list .question")] == ["Q7?"]
    assert page.all("#count")[0].text == "1 of 40 questions"
    page.check_clean()


def test_by_keyboard(page: Page, hostile: Path) -> None:
    from selenium.webdriver import Keys

    page.open(hostile)
    page.press("j", "j", "k", Keys.ENTER)
    assert [item.get_attribute("open") is not None for item in page.all("#list details")[:2]] == [
        True,
        False,
    ]
    page.press(Keys.ENTER)
    assert page.all("#list details")[0].get_attribute("open") is None
    page.run("document.querySelector('input[name=filter]').focus()")
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.querySelector('input[name=filter]:checked').value") == "wrong"
    page.check_clean()


def test_dark_and_light(page: Page, hostile: Path) -> None:
    colours = []
    for dark in (False, True):
        page.open(hostile, dark=dark)
        colours.append(
            page.run(
                "const of = (s, name) => getComputedStyle(document.querySelector(s))[name];"
                "return [of('body', 'backgroundColor'), of('body', 'color'), of('svg text', 'fill')]"
            )
        )
    light, dark = ([sum(map(int, c[4:-1].split(", "))) for c in row] for row in colours)
    assert light[0] > 600 > 300 > light[1] == light[2]
    assert dark[0] < 150 < 600 < dark[1] == dark[2]


def test_ten_thousand_examples(page: Page, tmp_path: Path) -> None:
    rows = [
        {"question": f"Question {i}?", "context": f"Text {i // 10}: Ada.", "answers": ["Ada"]}
        for i in range(10_000)
    ]
    found = qa_fast.evaluate(rows, {str(i): "Ada" for i in range(10_000)})
    write_report(found, tmp_path / "r.html")
    page.open(tmp_path / "r.html", width=390)
    assert len(page.all("#list li")) == 50
    assert len(page.all("#list .body")) == 0
    page.all("#more")[0].click()
    assert len(page.all("#list li")) == 100
    assert page.run("return document.activeElement.textContent").startswith("right")
    assert page.all("#count")[0].text.startswith("10,000 of 10,000 questions")
    page.check_clean()


def test_show(page: Page, tmp_path: Path) -> None:
    qa = qa_fast.pipeline(device="cpu")
    text = HOSTILE["end of a style"]
    question, context = f"Where was Ada born? {text}", f"{text} Ada was born in London. {text}"
    answers = qa(question=question, context=context, top_k=3)
    shown = qa_fast.show(answers, context, question, pipeline=qa)
    path = tmp_path / "show.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><title>x</title>{shown.html}", encoding="utf-8"
    )
    page.open(path, width=390)
    assert "London" in next(mark.text for mark in page.all("mark.predicted"))
    for block in page.all(".qa-fast > div.text"):
        assert block.get_attribute("textContent") == context
    assert "start 0." in page.all(".heat span")[0].get_attribute("title")
    page.check_clean()
