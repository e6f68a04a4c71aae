"""The Prefect UI as people see it, in headless Chromium: deployments, the run form, progress, pages of stages.

Screenshots go to the folder that TEXTMILL_SCREENSHOTS names, if it names one.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

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


def fill_in(page, name: str, value: int) -> None:
    field(page, name).get_by_text("int", exact=True).click()
    field(page, name).locator("input").fill(str(value))


def run_from_form(page, deployment: str, pretrain: dict[str, int]) -> str:
    """Start a run with these settings of `pretrain` from the deployment's form, and go to its page; its id."""
    open_form(page, deployment)
    page.get_by_text("PretrainConfig", exact=True).click()
    for name, value in pretrain.items():
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


def test_deployments_are_listed_with_their_schedules(page):
    page.goto("/deployments")
    sync_api.expect(page.get_by_role("link", name="chimera", exact=True).first).to_be_visible()
    keep(page, "deployments")
    for name in ("demo", "pretrain", "python-docs", "umb"):  # not all are on the first page
        page.get_by_placeholder("Search deployments").fill(name)
        sync_api.expect(page.get_by_role("link", name=name, exact=True).first).to_be_visible()
    page.get_by_role("link", name="umb", exact=True).first.click()
    sync_api.expect(page.get_by_text(re.compile("At 03:00 AM.* on Sunday")).first).to_be_attached()


def test_a_run_started_from_the_form_leaves_pages_with_figures_and_pictures(page, service):
    service.wait(run_from_form(page, "demo", {"Steps": 30, "Evaluate Every": 5}), "Completed")
    page.reload()
    open_tab(page, "Artifacts")
    expect_text(page, "run-small")
    keep(page, "run")

    page.goto("/artifacts/key/run-small")  # from the run to what it used
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
    open_tab(page, "Task Runs")
    sync_api.expect(page.get_by_text("Cached", exact=True)).to_have_count(7)
    open_tab(page, "Artifacts")
    page.get_by_role("link", name="run-small").first.click()
    expect_text(page, "reused it")
    keep(page, "reused")
    follow(page, "prepare python-docs")
    expect_text(page, "A document")


def test_progress_moves_while_a_training_runs_and_cancelling_ends_it(page, service):
    endless = {"Steps": 1_000_000, "Evaluate Every": 1_000_000, "Checkpoint Every": 500_000}
    run = run_from_form(page, "pretrain", endless)
    wanted = re.compile(r"pretrain 1 x 32, 1,000,000 steps: ([\d,]+)/1,000,000 steps")

    def steps_done() -> int:
        page.goto(f"/runs/flow-run/{run}")
        open_tab(page, "Artifacts")
        expect_text(page, wanted)
        return int(wanted.search(page.locator("body").inner_text())[1].replace(",", ""))

    first = steps_done()
    keep(page, "progress")
    page.wait_for_timeout(6 * SECONDS)
    assert steps_done() > first
    page.get_by_role("button", name="Cancel").first.click()
    page.get_by_role("button", name="Confirm").click()
    service.wait(run, "Cancelled", seconds=40)
    assert not service.trainings()
