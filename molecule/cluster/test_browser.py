"""The web UI and Flower, in a browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from conftest import TOP
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Milliseconds that a page may take to show what it should.
PATIENCE = 20_000
OUTPUT = TOP / "tests" / "output"
PICTURES = TOP / "docs" / "pictures"


@contextmanager
def fresh_page(browser: Browser, name: str, **options: Any) -> Iterator[Page]:
    """A page with cookies of its own; what it shows at a failure is kept as tests/output/browser-NAME.png."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    try:
        yield page
    except BaseException:
        page.screenshot(path=OUTPUT / f"browser-{name}.png")
        raise
    finally:
        context.close()


def sign_in(page: Page, password: str) -> None:
    """Fill in the login page, to which every other page leads, and send it."""
    page.goto("/dags")
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign In").click()


def update_picture(page: Page, name: str) -> None:
    """Renew a picture of the README, if told to."""
    if os.environ.get("UPDATE_PICTURES") == "1":
        page.screenshot(path=PICTURES / name, animations="disabled")


@pytest.fixture(scope="module")
def browser():
    """The machine's own Chromium."""
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def admin(browser, cluster, web_url):
    """Options of a page that the administrator opens: logged in once, because Airflow limits the rate of logins."""
    with fresh_page(browser, "login", base_url=web_url) as page:
        sign_in(page, cluster.secrets["airflow_admin_password"])
        expect(page.get_by_role("button", name="User", exact=True)).to_be_visible()
        return {"base_url": web_url, "storage_state": page.context.storage_state()}


@pytest.fixture(scope="module")
def flower_url(cluster):
    """URL of Flower's list of workers."""
    return f"http://{cluster.address(cluster.members('flower')[0])}:5555/workers"


def test_login_page_refuses_a_wrong_password(browser, cluster, web_url):
    with fresh_page(browser, "wrong-password", base_url=web_url) as page:
        sign_in(page, cluster.secrets["airflow_admin_password"] + "x")
        expect(page.get_by_text("Invalid login")).to_be_visible()
        expect(page).to_have_url(re.compile("/auth/login/"))
        assert page.request.get("/api/v2/dags").status == 401


def test_dags_are_listed_without_import_errors(browser, admin):
    with fresh_page(browser, "dags", **admin) as page:
        with page.expect_response(re.compile("/importErrors")) as errors:
            page.goto("/dags")
        assert errors.value.json()["import_errors"] == []
        for name in ("parallel_dag", "dataops_canary"):
            expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()


def test_run_and_its_log_can_be_read(browser, admin, cluster, api):
    tasks = {task["task_id"]: task for task in api.run_dag("parallel_dag")}
    assert sorted(tasks) == ["task_1", "task_2", "task_3", "task_4"]
    second = tasks["task_2"]
    assert second["hostname"] in [cluster.address(worker) for worker in cluster.members("workers")]

    with fresh_page(browser, "run", **admin) as page:
        page.goto(f"/dags/parallel_dag/runs/{second['dag_run_id']}")
        rows = page.get_by_role("row")
        for name in tasks:
            row = rows.filter(has=page.get_by_role("link", name=name, exact=True))
            expect(row.get_by_role("cell", name="Success", exact=True)).to_be_visible()

        page.get_by_role("button", name="Show Graph").click()
        for name in tasks:
            expect(page.get_by_test_id(f"rf__node-{name}")).to_contain_text("success")

        # More room for the bars, which is all that the picture is about.
        page.get_by_role("button", name="Show Gantt").click()
        divider = page.get_by_role("separator")
        divider.press("Home")
        divider.press("ArrowRight")
        divider.press("ArrowRight")
        divider.blur()
        for name in tasks:
            links = page.locator(f"a[href*='/runs/{second['dag_run_id']}/tasks/{name}']")
            # Neither the square in the grid nor the name in the table: the bar.
            bars = links.and_(page.locator(":not([data-testid])")).filter(has_not_text=name)
            expect(bars.last).to_be_visible()
        update_picture(page, "web-ui.png")

        rows.get_by_role("link", name="task_2", exact=True).click()
        expect(page.get_by_text("Command exited with return code 0")).to_be_visible()
        page.get_by_text("Log message source details").click()
        expect(page.get_by_role("link", name=f"http://{second['hostname']}:8793/log/")).to_be_visible()


@pytest.mark.parametrize("password", [None, "wrong"])
def test_flower_refuses_strangers(browser, flower_url, password):
    options = {"http_credentials": {"username": "admin", "password": password}} if password else {}
    with fresh_page(browser, "flower-stranger", **options) as page:
        # Chromium calls a 401 a failed navigation if it has no password to try.
        with page.expect_response(flower_url) as refusal, suppress(Error):
            page.goto(flower_url)
        assert refusal.value.status == 401
        expect(page.get_by_text("celery@")).to_be_hidden()


def test_flower_shows_every_worker_online(browser, cluster, flower_url):
    credentials = {"username": "admin", "password": cluster.secrets["airflow_flower_password"]}
    with fresh_page(browser, "flower", http_credentials=credentials) as page:
        page.goto(flower_url)
        for worker in cluster.members("workers"):
            row = page.get_by_role("row", name=re.compile(rf"celery@{re.escape(worker)} Online\b"))
            expect(row).to_be_visible()
        update_picture(page, "flower.png")
