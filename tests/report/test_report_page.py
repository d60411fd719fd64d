"""The HTML page in a browser, as a reader uses it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.made_up_report import LONG_PATHS, MMLU, MMLU_SUBJECTS, made_up_report

from act_eval.report.build import make_report
from act_eval.report.page import page as page_without_figures
from act_eval.report.write import write_report

pytestmark = pytest.mark.tier("browser")

RESULTS = Path(__file__).parents[1] / "results"
HOSTILE = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"> & {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """The results of `RESULTS`, with hostile text in a prompt, an answer and the model's name."""
    folder = tmp_path_factory.mktemp("results")
    for file in RESULTS.iterdir():
        text = file.read_text()
        if file.name.startswith("results_"):
            text = json.dumps({**json.loads(text), "model_name": f"model {HOSTILE}"})
        elif "demo_topic" in file.name:
            samples = [json.loads(line) for line in text.splitlines()]
            for sample in samples:
                for number, request in enumerate(sample["arguments"].values()):
                    request.update(arg_0=f"{request['arg_0']} {HOSTILE}", arg_1=f" {number} {HOSTILE}")
            text = "".join(json.dumps(sample) + "\n" for sample in samples)
        (folder / file.name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def report(results):
    return make_report([results])


@pytest.fixture(scope="module")
def html(report, tmp_path_factory):
    return next(path for path in write_report(report, tmp_path_factory.mktemp("page")) if path.suffix == ".html")


@pytest.mark.tier("slow")
def test_needs_no_network(html):
    text = html.read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "src=x" not in text.replace("&lt;img src=x", "").replace('<span class="word">src=x</span>', "")
    assert "<script>document" not in text


@pytest.fixture(scope="module")
def browser():
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("there is no Chromium: on Debian, apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[1280, 390], ids=["desktop", "phone"])
def page(browser, html, request):
    """The page at the width of a desktop and of a phone; anything in the console fails the test."""
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    messages = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or messages.append(request.url))
    page.goto(html.as_uri())
    yield page
    page.close()
    assert messages == []


def test_fits_the_width(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    images = page.locator("figure img")
    assert images.count() == 6
    assert images.evaluate_all("images => images.every(image => image.complete && image.naturalWidth > 200)")


@pytest.fixture(scope="module")
def html_of_long_names(tmp_path_factory):
    report = made_up_report(LONG_PATHS, tasks=MMLU[:20], group="mmlu", of_tasks=57, subjects=MMLU_SUBJECTS[:5])
    file = tmp_path_factory.mktemp("long-names") / "report.html"
    file.write_text(page_without_figures(report, {}))
    return file


@pytest.fixture(params=[360, 800, 1280])
def page_of_long_names(browser, html_of_long_names, request):
    page = browser.new_page(viewport={"width": request.param, "height": 800})
    page.goto(html_of_long_names.as_uri())
    yield page
    page.close()


@pytest.mark.tier("slow")
def test_long_names_stay_whole_at_any_width(page_of_long_names):
    """Each is on one line, and nothing but tables can be scrolled sideways."""
    page = page_of_long_names
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    names = page.locator("td.left, th button, #models dt, h3 .word")
    lines = names.evaluate_all(
        """names => names.map(name => {
            const range = document.createRange();
            range.selectNodeContents(name);
            return [name.textContent, new Set(Array.from(range.getClientRects(), box => Math.round(box.top))).size];
        })"""
    )
    assert len(lines) > 200
    assert [name for name, count in lines if count > 1] == []
    cell = page.locator("td[title]").first
    assert cell.get_attribute("title").endswith(cell.text_content())
    assert page.locator("#models dd").all_text_contents() == LONG_PATHS
    assert page.locator("td", has_text="mmlu (20 of 57 tasks)").count() == 0
    assert page.get_by_role("button", name="mmlu (20 of 57 tasks)").count() == 1


def test_hostile_text_stays_text(page):
    assert page.title() == "act-eval: baseline and ACT"
    assert page.locator("details.flip pre", has_text=HOSTILE).count() > 0
    assert page.locator("h3", has_text=HOSTILE).count() > 0


@pytest.mark.parametrize("column", ["delta", "task", "Holm p", "95% interval"])
def test_sorting(page, column):
    table = page.locator("table.sortable", has=page.get_by_role("button", name="Holm p")).last
    header = table.get_by_role("button", name=column, exact=True)
    index = header.evaluate("button => button.parentElement.cellIndex")

    def cells():
        return table.locator("tbody tr").evaluate_all("(rows, index) => rows.map(row => row.cells[index].textContent)", index)

    def key(text):
        return text if column == "task" else float(text.replace("<", "").split()[0]) if text else float("inf")

    before = cells()
    header.click()
    assert cells() == sorted(before, key=key)
    assert header.evaluate("button => button.parentElement.ariaSort") == "ascending"
    header.click()
    keys = [key(text) for text in cells()]
    assert keys == sorted(keys, reverse=True)
    assert sorted(cells()) == sorted(before)
    assert len(set(before)) > 1


def test_search(page, report):
    flips = page.locator("details.flip")
    total = len(report.flips.documents)
    assert flips.count() == total > 3
    assert page.locator("#shown").text_content() == f"{total} shown"
    page.get_by_label("Search").fill("DEMO_CHOICE document")
    shown = flips.filter(visible=True)
    assert shown.count() == (report.flips.documents["task"] == "demo_choice").sum() < total
    page.get_by_label("Show").select_option("gained")
    gained = report.flips.documents.query("task == 'demo_choice' and change == 'gained'")
    assert shown.count() == len(gained)
    page.get_by_label("Show").select_option("")
    page.get_by_label("Search").fill("no document has this")
    assert shown.count() == 0
    page.get_by_label("Search").fill("")
    assert shown.count() == total


def test_a_document_opens(page, report):
    flip = report.flips.documents.iloc[0]
    details = page.locator("details.flip").first
    assert not details.locator("pre").is_visible()
    details.locator("summary").click()
    assert details.locator("pre").text_content() == flip["prompt"]
    answers = details.locator("dd").all_text_contents()
    assert answers[0] == flip["gold"]
    assert answers[1].startswith(f"{flip['answer_baseline']} (margin ")


def test_bars_of_labels(page, report):
    """A bar is as long as its share, on one scale in all columns, and its numbers are there without it."""
    table = page.locator("table.labels").last
    *_, (_, rows) = report.labels.groupby(["settings", "task"], sort=False)
    assert table.locator("caption").text_content() == rows["task"].iloc[0]
    assert table.locator("tbody th").all_text_contents() == rows["label"].tolist()
    counts = rows[["n", "baseline_predicted_before", "act_predicted_before", "baseline_predicted_after", "act_predicted_after"]]
    texts = table.locator("td").all_text_contents()
    assert [float(text.split(" (")[0]) for text in texts] == counts.to_numpy(float).ravel().tolist()
    widths = table.locator(".bar").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    of_a_document = [width / count for width, count in zip(widths, counts.to_numpy(float).ravel(), strict=True) if count]
    assert min(of_a_document) > 1
    assert of_a_document == pytest.approx([np.mean(of_a_document)] * len(of_a_document), rel=0.05)


def test_settings_of_each_run(page, report):
    runs = page.locator("details:not(.flip)")
    assert runs.count() == len(report.runs)
    runs.first.locator("summary").click()
    assert json.loads(runs.first.locator("pre").text_content()) == report.runs["arguments"].iloc[0]
