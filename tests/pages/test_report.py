"""The HTML report by its text; how it behaves is tested in a browser, see test_browser.py."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import qa_fast
from qa_fast.pages.examples import MOST_EXAMPLES
from qa_fast.pages.report import write_report

from ..helpers.hostile import SCRIPT, hostile_evaluation

DATA = Path(__file__).parents[1] / "recorded"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(hostile_evaluation(), path, title=f"Title {SCRIPT}", command_line=["x", SCRIPT])
    return path


def embedded(page: str) -> Any:
    """The examples in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


# --- by its text --------------------------------------------------------------------------------


def test_page_holds_no_markup_of_the_data_and_loads_nothing(hostile: Path) -> None:
    tags = Tags(hostile.read_text(encoding="utf-8")).found
    assert [attrs for tag, attrs in tags if tag == "script"] == [
        {"type": "application/json", "id": "data"},
        {},
    ]
    assert not {tag for tag, _ in tags} & {"img", "iframe", "link", "object", "base", "form"}
    for _, attrs in tags:
        assert not [name for name in attrs if name.startswith("on")]
        links = [attrs.get(name) or "" for name in ("src", "href", "xlink:href")]
        assert all(link == "" or link.startswith("#") for link in links)
    assert "default-src 'none'" in str(tags)


def test_ids_are_unique(hostile: Path) -> None:
    ids = [
        attrs["id"] for _, attrs in Tags(hostile.read_text(encoding="utf-8")).found if "id" in attrs
    ]
    assert len(ids) == len(set(ids)) > 5


def test_offsets_are_in_utf16(hostile: Path) -> None:
    data = embedded(hostile.read_text(encoding="utf-8"))
    row = next(row for row in data["rows"] if row["id"].startswith("astral"))
    context = data["contexts"][row["context"]].encode("utf-16-le")
    for span in (row, row["golds"][1]):
        text = context[2 * span["start"] : 2 * span["end"]].decode("utf-16-le")
        assert text == span.get("text", row["answer"])


def test_lone_surrogates_do_not_stop_a_report(tmp_path: Path) -> None:
    # In a notebook anything can be a string.
    example = qa_fast.Example("1", "Who \ud800?", "Ada \udfff", ("Ada",))
    write_report(
        qa_fast.evaluate([example], {"1": "Ada \udfff"}), tmp_path / "r.html", title="\ud800"
    )
    data = embedded((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert data["rows"][0]["answer"] == "Ada \udfff"


def test_many_questions_are_sampled_and_the_page_says_so(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "context": "Ada", "answers": ["Ada"]}] * (MOST_EXAMPLES + 5)
    found = qa_fast.evaluate(rows, {str(i): "Ada" for i in range(len(rows))})
    write_report(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "A random sample of 10,000 of 10,005 questions." in page
    assert len(embedded(page)["rows"]) == MOST_EXAMPLES


def test_figures_on_the_page(tmp_path: Path) -> None:
    found = qa_fast.evaluate(
        DATA / "squad2_sample.json",
        DATA / "squad2_sample_pred.json",
        na_prob=DATA / "squad2_sample_na.json",
    )
    write_report(found, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    text = " ".join(
        re.sub(r"<style.*?</style>|<script.*?</script>|<[^>]*>", " ", page, flags=re.S).split()
    )
    low, high = found.intervals["f1"]
    assert f"F1 {found.metrics['f1']:.2f} 95% interval {low:.1f} to {high:.1f}" in text
    best, threshold = found.metrics["best_f1"], found.metrics["best_f1_thresh"]
    assert f"Best F1 {best:.2f} at threshold {threshold:.4g} threshold tuned on these data" in text
    for groups in found.breakdowns.values():
        for group in groups:
            assert f"{group.label} {group.total} {group.exact:.1f} {group.f1:.1f}" in text
    assert page.count("<svg") == 3  # no scores of answers, no confidence in an official file
    assert "Speed" not in text


def test_speed_by_stage(tmp_path: Path) -> None:
    run = {
        "sessions": [
            {"seconds": 2.0, "questions": 30, "stages": {"tokenize": 0.5, "forward": 1.0}},
            {"seconds": 1.0, "questions": 10, "stages": {"tokenize": 0.5, "forward": 0.5}},
        ]
    }
    rows = [{"question": "Who?", "context": "Ada", "answers": ["Ada"]}]
    found = replace(qa_fast.evaluate(rows, {"0": "Ada"}), run=run)
    write_report(found, tmp_path / "r.html")
    rows_shown = re.findall(
        r'<th scope="row">([a-z ]+)</th><td>([\d.]+)</td><td>([\d.]+)%',
        (tmp_path / "r.html").read_text(encoding="utf-8"),
    )
    assert rows_shown == [
        ("tokenize", "1.00", "33.3"),
        ("forward", "1.50", "50.0"),
        ("everything", "3.00", "100.0"),
    ]
