"""The Prefect UI as people see it, in headless Chromium: deployments, the run form, progress, pages of stages.

Screenshots go to the folder that TEXTMILL_SCREENSHOTS names, if it names one.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

import pytest
from prefect.client.schemas.actions import ArtifactCreate

from flows.engine.page import Bars, Picture, Sample, Table, Text
from flows.service.watching.markdown import code, link, plain
from flows.service.watching.pages import markdown_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SECONDS = 1000

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, service):
    page = browser.new_page(viewport={"width": 1280, "height": 900}, base_url=service.address)
    page.set_default_timeout(60 * SECONDS)
    yield page
    page.close()


def keep(page, name: str) -> None:
    if folder := os.environ.get("TEXTMILL_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def field(page, name: str):
    """The innermost field of a run form that has this label."""
    return page.locator(".schema-form-property", has=page.get_by_text(f"{name} (Optional)", exact=True)).last


def fill_in(page, name: str, value: int | str) -> None:
    field(page, name).locator("input, textarea").last.fill(str(value))


def choose(page, name: str, value: str) -> None:
    field(page, name).locator(".p-select-button__control").focus()
    page.keyboard.press("Space")  # a click opens and closes the list at once in this version of Prefect's page
    page.get_by_role("option", name=value, exact=True).click()


def switch_on(page, name: str) -> None:
    field(page, name).get_by_role("switch").click()


def run_from_form(page, deployment: str, values: dict[str, int | str]) -> str:
    """Start a run with these values in the deployment's form, and go to its page; its id."""
    open_form(page, deployment)
    for name, value in values.items():
        fill_in(page, name, value)
    run = submit(page)["id"]
    page.goto(f"/runs/flow-run/{run}")
    return run


def submit(page) -> dict:
    """Submit the run form, again while Prefect's server asks for it; the new run.

    On SQLite it answers 503 if another request wrote between this one's reads and its writes. Prefect's client tries
    again by itself, its form leaves that to people; on a busy machine that is every second time.
    """
    for _ in range(20):
        with page.expect_response(re.compile("/create_flow_run$")) as created:
            page.get_by_role("button", name="Submit").dispatch_event("click")  # an advertisement may lie over it
        if created.value.status != 503:
            assert created.value.ok, created.value.text()
            return created.value.json()
        page.wait_for_timeout(1 * SECONDS)
    pytest.fail("the server was unavailable for every one of 20 submissions of the form")


def open_form(page, deployment: str) -> None:
    page.goto("/deployments")
    page.get_by_placeholder("Search deployments").fill(deployment)  # not all are on the first page
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()


def open_tab(page, name: str) -> None:
    page.get_by_role("listitem").filter(has_text=re.compile(f"^\\s*{name}\\s*$")).first.click()


def follow(page, name: str) -> None:
    """Open a link of a page of ours; the UI would open it in another tab."""
    page.goto(page.get_by_role("link", name=name).first.get_attribute("href"))


def expect_text(page, text: str | re.Pattern) -> None:
    sync_api.expect(page.get_by_text(text).first).to_be_visible(timeout=60 * SECONDS)


def reload_until(page, locator, count: int = 1, tab: str = "") -> None:
    """Load the page again until this is there so often: the UI reads an artifact once, and its server is told of the
    end of a task a little late."""
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        if tab:
            open_tab(page, tab)
        with suppress(AssertionError):
            sync_api.expect(locator).to_have_count(count, timeout=15 * SECONDS)
            return
        shown = page.locator("body").inner_text()
        page.reload()
    pytest.fail(f"{locator} did not come up {count} times: {shown}")


def test_deployments_are_listed_with_their_schedules(page):
    page.goto("/deployments")
    sync_api.expect(page.get_by_role("link", name="architecture", exact=True).first).to_be_visible()
    keep(page, "deployments")
    for name in ("demo", "pretrain", "python-docs", "umb"):  # not all are on the first page
        page.get_by_placeholder("Search deployments").fill(name)
        sync_api.expect(page.get_by_role("link", name=name, exact=True).first).to_be_visible()
    page.get_by_role("link", name="umb", exact=True).first.click()
    sync_api.expect(page.get_by_text(re.compile("At 03:00 AM.* on Sunday")).first).to_be_attached()


def labels(page) -> list[str]:
    return [text.removesuffix(" (Optional)") for text in page.locator(".schema-form-property__label").all_inner_texts()]


def keep_form(page, name: str) -> None:
    """Keep a form as a wide and a narrow window show it, from top to bottom."""
    for kind, width in (("wide", 1280), ("narrow", 420)):
        page.set_viewport_size({"width": width, "height": 900})
        height = page.evaluate("Math.max(...[...document.querySelectorAll('*')].map(element => element.scrollHeight))")
        page.set_viewport_size({"width": width, "height": min(height, 10_000)})
        page.wait_for_timeout(0.3 * SECONDS)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        keep(page, f"form-{name}-{kind}")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_the_form_of_a_stage_shows_its_own_settings_and_what_the_configuration_says(page):
    open_form(page, "pretrain")
    expect_text(page, "Optimizer steps. configs/demo.yaml: 12")
    shown = labels(page)
    assert shown[:3] == ["force", "preset", "depth"]
    assert shown[-4:] == ["other settings", "build what is missing", "verify", "config"]
    assert not {"scrape", "prepare", "vocab_size", "finetune"} & set(shown)
    assert "Property is type" not in page.inner_text("body")
    for name in ("force", "build what is missing", "verify"):
        sync_api.expect(field(page, name).get_by_role("switch")).to_have_attribute("aria-checked", "false")
    for name in ("steps", "batch", "ema", "lr", "dropout", "sample_prompt"):
        assert field(page, name).locator("input, textarea").last.input_value() == ""
    choose(page, "precision", "fp32")
    choose(page, "bias", "true")  # of the model, whose fields lie in a box
    assert field(page, "precision").locator(".p-select-button__value").inner_text() == "fp32"
    assert field(page, "config").locator("textarea").input_value() == "configs/demo.yaml"
    keep_form(page, "pretrain")


def test_the_form_of_a_pipeline_is_short(page):
    open_form(page, "demo")
    expect_text(page, "Stages to build again")
    assert labels(page) == ["force", "start", "verify", "settings", "config"]
    assert "Property is type" not in page.inner_text("body")
    choose(page, "start", "pretrain")
    keep_form(page, "pipeline")


def test_a_run_from_the_form_is_given_what_was_filled_in_and_nothing_else(page, service):
    open_form(page, "train_tokenizer")
    fill_in(page, "vocab_size", 500)
    switch_on(page, "build what is missing")
    run = submit(page)
    toggles = {"force": False, "verify": False, "build_missing": True}
    assert run["parameters"] == {"config": "configs/demo.yaml", "vocab_size": 500, **toggles}
    service.wait(run["id"], "Completed")
    deadline = time.monotonic() + 120  # a busy server writes log lines later than states
    while "train_tokenizer 500 tokens: build" not in (lines := service.logs(run["id"])):
        assert time.monotonic() < deadline, lines
        time.sleep(0.3)

    page.goto(f"/runs/flow-run/{run['id']}")
    page.locator(".p-icon-button-menu button").first.click()
    page.get_by_text("Copy to new run").click()
    sync_api.expect(field(page, "vocab_size").locator("input")).to_have_value("500")
    switch = field(page, "build what is missing").get_by_role("switch")
    sync_api.expect(switch).to_have_attribute("aria-checked", "true")


def test_a_mistake_in_a_form_is_one_line_of_the_run(page, service):
    open_form(page, "train_tokenizer")
    fill_in(page, "other settings", '{"train_tokenizer": {"vocab_sise": 500}}')
    mistaken = submit(page)["id"]
    failed = service.wait(mistaken, "Failed")
    assert "train_tokenizer.vocab_sise: unknown key; did you mean train_tokenizer.vocab_size?" in failed.message
    assert len(failed.message.splitlines()) == 1


def test_a_run_started_from_the_form_leaves_pages_with_figures_and_pictures(page, service):
    service.wait(
        run_from_form(page, "demo", {"settings": '{"pretrain": {"steps": 30, "evaluate_every": 5}}'}), "Completed"
    )
    page.reload()
    open_tab(page, "Artifacts")
    expect_text(page, "run-of-small")
    keep(page, "run")

    page.goto("/artifacts/key/run-of-small")  # from the run to what it used
    page.get_by_role("link", name=re.compile("[0-9a-f]{8}")).first.click()
    expect_text(page, "what came out")
    follow(page, "pretrain 1 x 32, 30 steps")
    picture = page.get_by_role("img", name="Loss over the steps")
    sync_api.expect(picture).to_be_visible()
    assert picture.evaluate("image => image.naturalWidth") > 100
    expect_text(page, "It writes")
    keep(page, "pretrain")
    follow(page, "pretokenize")  # and on to what that was made from
    expect_text(page, "train.bytes_per_token")
    follow(page, "prepare python-docs")
    expect_text(page, "dropped")
    expect_text(page, "A document")


def test_a_run_says_on_its_page_what_it_reused_with_links_to_it(page, service):
    service.wait(service.start("pipeline/demo"), "Completed")
    run = service.start("pipeline/demo")
    assert service.wait(run, "Completed").message == "0 built, 7 reused"
    page.goto(f"/runs/flow-run/{run}")
    expect_text(page, re.compile("prepare python-docs: reuse"))  # the log
    reload_until(page, page.get_by_text("Cached", exact=True), 7, tab="Task Runs")
    open_tab(page, "Artifacts")
    page.get_by_role("link", name="run-of-small").first.click()
    expect_text(page, "reused it")
    keep(page, "reused")
    follow(page, "prepare python-docs")
    expect_text(page, "A document")


def test_progress_moves_while_a_training_runs_and_cancelling_ends_it(page, service):
    endless = {"steps": 1_000_000, "evaluate_every": 1_000_000, "checkpoint_every": 500_000}
    run = run_from_form(page, "pretrain", endless)
    try:
        wanted = re.compile(r"([\d,]+)/1,000,000 steps")
        expect_text(page, "Watch: ")  # the log's first line of ours
        address = re.search(r"Watch: (http\S+)", page.locator("body").inner_text())[1]

        def steps_done() -> int:
            page.goto(address)
            reload_until(page, page.get_by_role("link", name="pretrain 1 x 32, 1,000,000 steps"))
            follow(page, "pretrain 1 x 32, 1,000,000 steps")
            reload_until(page, page.get_by_text(re.compile(r"^[\d,]+.1,000,000 steps$")))
            return int(wanted.search(page.locator("body").inner_text())[1].replace(",", ""))

        first = steps_done()
        keep(page, "progress")
        page.wait_for_timeout(6 * SECONDS)
        assert steps_done() > first
        page.goto(f"/runs/flow-run/{run}")
        page.get_by_role("button", name="Cancel").first.click()
        page.get_by_role("button", name="Confirm").click()
        service.wait(run, "Cancelled", seconds=120)
        assert not service.trainings()
    finally:  # or it would take a core from the tests that follow
        service.cancel(run)


HOSTILE = [
    "<script>document.title = 'owned'</script>",
    "<img src=http://evil.invalid/a.png onerror=\"document.title = 'owned'\">",
    "![picture](http://evil.invalid/b.png)",
    "[press me](http://evil.invalid/c) [x]: http://evil.invalid/d",
    "http://evil.invalid/e www.evil.invalid/f <http://evil.invalid/g> me@evil.invalid",
    "| a | [b](http://evil.invalid/h) | `|` ``c",
    "~~~~\n~~~~~~~\n<img src=http://evil.invalid/i.png>\n![](http://evil.invalid/j.png)\n~~~~",
    "````\n# A heading\n* a list\n1. another\n\n    code\n---",
    "\\[press](http://evil.invalid/k) \\\\<b>bold</b> &lt;i&gt; *emphasis* __strong__",
    'a" onload="document.title=1" [" x](javascript:alert(1))',
]


def test_text_from_outside_stays_text(page, service):
    """No script runs, no picture is asked for and no link is made, wherever a page shows text of a site or a model."""
    blocks = [
        *(Sample(text, text, url=text) for text in HOSTILE),
        *(Text(text) for text in HOSTILE),
        Table(HOSTILE, [HOSTILE, HOSTILE]),
        Bars(HOSTILE[0], {text: number for number, text in enumerate(HOSTILE, 1)}),
        *(Picture(text, "<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>") for text in HOSTILE),
    ]
    lines = [line for block in blocks for line in markdown_of(block)]
    lines += [link(text, "/artifacts/key/ours") + " " + code(text) + "\n" for text in HOSTILE]
    with service.client() as client:
        made = client.create_artifact(
            ArtifactCreate(
                key="hostile", type="markdown", data="\n".join(lines), description=" ".join(map(plain, HOSTILE))
            )
        )
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    for ui in ("/artifacts/artifact", "/artifacts/key"):
        page.goto(f"{ui}/{made.id if ui.endswith('artifact') else 'hostile'}")
        expect_text(page, "press me")
        page.wait_for_timeout(1 * SECONDS)
        keep(page, f"hostile-{ui.rpartition('/')[2]}")
        assert "owned" not in page.title()
        assert not [url for url in asked if "evil" in url]
        targets = page.eval_on_selector_all("a", "links => links.map(link => link.href)")
        assert not [url for url in targets if "evil" in url or "javascript" in url]
        assert page.locator("main img[src*=evil], script:has-text('owned'), b:has-text('bold')").count() == 0
