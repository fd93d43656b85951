# The console in Chromium, used as people use it: mostly by keyboard. Run by console.rs, with the addresses of a
# console for everybody and of one with users.

import os
import re
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

URL, WITH_USERS = sys.argv[1:3]
SHOTS = os.environ.get("CONSOLE_SCREENSHOTS")
NAMES = [os.environ.get("CHROMIUM", "chromium"), "chromium", "chromium-browser", "google-chrome"]
EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
ODD = "<b>by</b> 10 s/é"

expect.set_options(timeout=300_000)


def shot(page, name):
    if SHOTS:
        page.wait_for_timeout(200)
        page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


def fits(page):
    """Nothing makes the page scroll sideways."""
    wide = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert wide[0] <= wide[1], f"{page.url}: {wide}"


def write(page, sql):
    """Puts a statement into the editor, in the place of the last one."""
    editor = page.get_by_label("Query", exact=True)
    editor.focus()
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(sql)
    becomes(page, lambda text: text == sql)


def written(page):
    """The text in the editor."""
    return page.evaluate("[...document.querySelectorAll('.cm-line')].map(line => line.textContent).join('\\n')")


def becomes(page, fits):
    """Waits until the text in the editor fits."""
    for _ in range(100):
        if fits(written(page)):
            return
        page.wait_for_timeout(50)
    assert False, written(page)


def offered(page):
    """The names that the editor offers."""
    return page.locator(".cm-tooltip-autocomplete li .cm-completionLabel")


def run(page, sql):
    """Types a statement over the last one and runs it."""
    page.get_by_role("link", name="Query", exact=True).click()
    write(page, sql)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()


def done(page, sql):
    run(page, sql)
    expect(page.locator(".problem")).to_have_count(0)


def tab_to(page, target):
    """Presses Tab until it is there: it can be reached, and the focus is seen."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if target.evaluate("node => node === document.activeElement"):
            assert target.evaluate("node => getComputedStyle(node).outlineStyle") != "none"
            return
    raise AssertionError(f"{target} is not reached by Tab")


def badge(page, text):
    expect(page.locator("h1 ~ .badge")).to_have_text(text)


def queries(page):
    done(page, f"INSERT INTO seen VALUES (1, '{EVIL.replace(chr(39), chr(39) * 2)}')")
    expect(page.locator(".result h2")).to_have_text("1 row written")
    for n in range(2, 9):
        done(page, f"INSERT INTO seen SELECT value, 'row ' || value FROM generate_series(1, {n * n})")
    run(page, "SELECT id, note FROM seen ORDER BY id, length(note) DESC LIMIT 1")
    cells = page.locator(".grid tbody td")
    expect(cells).to_have_text(["1", EVIL])
    assert cells.locator("script, img, b").count() == 0
    expect(page.get_by_role("status")).to_contain_text("1 row")
    shot(page, "query")

    run(page, "SELECT id,\n\tnothing\nFROM seen")
    expect(page.locator(".problem .message")).to_have_text("no column named nothing")
    expect(page.get_by_role("button", name="line 2, column 2")).to_be_visible()
    expect(page.locator(".cm-lineNumbers .wrong")).to_have_text("2")
    expect(page.locator(".wrong-part")).to_have_text("nothing")
    chosen = "[document.activeElement.id, getSelection().toString()]"
    assert page.evaluate(chosen) == ["sql", "nothing"], page.evaluate(chosen)
    shot(page, "error")

    # The place of an error in a selection is that in the whole text.
    write(page, "SELECT 1;\nSELECT 2;\n  SELECT wrong")
    expect(page.locator(".wrong-part")).to_have_count(0)
    for _ in range(12):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="line 3, column 10")).to_be_visible()

    run(page, "SELECT value AS n, sin(value / 10.0) * 100 AS wave, NULL AS nothing, "
              "[value, 9007199254740993] AS list FROM generate_series(1, 2000)")
    expect(page.locator(".result h2").first).to_have_text("the first 1,000 rows, there are more")
    expect(page.locator(".grid tbody tr").first.locator("td").nth(3)).to_have_text('[1,"9007199254740993"]')
    page.get_by_text("Chart", exact=True).click()
    page.get_by_label("y", exact=True).select_option("wave")
    expect(page.locator("svg.chart")).to_have_attribute("aria-label", re.compile("Line: wave by n"))
    shot(page, "chart")
    page.get_by_label("Kind").select_option("bar")
    expect(page.locator("svg.chart .bar")).to_have_count(1000)

    write(page, "SELECT count(*) FROM generate_series(1, 100000000) a CROSS JOIN generate_series(1, 100000000) b")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("button", name="Cancel", exact=True)).to_be_enabled()
    page.wait_for_timeout(500)
    page.keyboard.press("Escape")
    expect(page.locator(".problem .message")).to_have_text("the statement was cancelled")

    page.reload()
    page.get_by_text("History", exact=True).click()
    page.get_by_role("button", name=re.compile("AS wave")).click()
    expect(page.locator(".cm-line").first).to_have_text(re.compile("^SELECT value AS n"))


def typing(page):
    """Colours, completion and leaving the editor, by keyboard."""
    write(page, "SELECT id, 'text' FROM seen s WHERE s.")
    expect(page.locator(".cm-line .sql-keyword")).to_have_text(["SELECT", "FROM", "WHERE"])
    expect(page.locator(".cm-line .sql-text")).to_have_text("'text'")
    page.keyboard.press("Control+Space")
    expect(offered(page)).to_have_text(["id", "note"])
    # Keys that come at once after the list has opened are meant for the text.
    page.wait_for_timeout(300)
    shot(page, "completion")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    becomes(page, lambda text: text.endswith("WHERE s.note"))
    write(page, "PAUSE JOB cop")
    page.keyboard.press("Control+Space")
    expect(offered(page)).to_have_text(["copy"])
    # Escape closes the list, and Tab leaves the editor as any other field.
    page.keyboard.press("Escape")
    expect(offered(page)).to_have_count(0)
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_focused()
    write(page, "SELECT coun")
    page.keyboard.press("Control+Space")
    expect(offered(page).filter(has_text=re.compile("^count$"))).to_have_count(1)
    page.keyboard.press("Escape")


def live(page):
    """Rows without an end are shown as they come."""
    page.get_by_label("Rows", exact=True).select_option("100")
    write(page, "SUBSCRIBE SELECT id, note FROM seen")
    page.keyboard.press("Control+Enter")
    rows = page.locator(".result .grid tbody tr")
    expect(rows).to_have_count(100)
    expect(page.locator(".result h2").first).to_have_text(re.compile(r"^\d+ rows, of which the newest 100 are shown$"))
    shot(page, "live")
    page.get_by_role("button", name="Cancel", exact=True).press("Enter")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_enabled()
    expect(page.locator(".problem .message")).to_have_text("the statement was cancelled")
    # The rows stay.
    expect(rows).to_have_count(100)


def jobs(page):
    page.get_by_role("link", name="Jobs", exact=True).click()
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name="copy", exact=True))
    expect(row.locator(".badge")).to_have_text("RUNNING")
    odd = page.get_by_role("link", name=ODD, exact=True)
    expect(odd).to_be_visible()
    assert page.locator("main b").count() == 0
    shot(page, "jobs")

    tab_to(page, page.get_by_role("link", name="copy", exact=True))
    page.keyboard.press("Enter")
    badge(page, "RUNNING")
    expect(page.locator("svg.chart")).to_have_count(2)
    expect(page.locator(".chart .group").first).to_be_attached()
    shot(page, "job")

    toggle = page.get_by_role("button", name="Pause", exact=True)
    tab_to(page, toggle)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Pause job copy?")
    expect(dialog).to_be_visible()
    shot(page, "pause")
    # The focus stays in the dialog; Escape leaves everything as it is, and the focus where it was.
    for _ in range(5):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || !!document.activeElement.closest('dialog')")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert toggle.evaluate("node => node === document.activeElement")
    badge(page, "RUNNING")
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Enter")
    badge(page, "PAUSED")
    expect(page.get_by_role("status")).to_have_text("job copy paused")
    shot(page, "paused")

    page.get_by_role("button", name="Rewind…").press("Enter")
    dialog = page.get_by_role("dialog", name="Rewind job copy?")
    sure = dialog.get_by_role("button", name="Rewind job")
    expect(sure).to_be_disabled()
    number = dialog.get_by_label("To batch")
    number.fill("999999")
    expect(dialog.locator(".consequence")).to_contain_text("Give a number")
    number.fill("1")
    expect(dialog.locator(".consequence")).to_contain_text("are abandoned")
    name = dialog.get_by_label("Type copy to confirm")
    name.press_sequentially("cop")
    expect(sure).to_be_disabled()
    name.press_sequentially("y")
    shot(page, "rewind")
    page.keyboard.press("Enter")
    ended = page.locator(".toast.shown, dialog .problem")
    expect(ended.filter(has_text=re.compile("continues from batch 1|run the statement again"))).to_have_count(1)
    if dialog.count():
        # The job's runner had not read the pause yet.
        page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("job copy continues from batch 1")
    expect(dialog).to_have_count(0)

    toggle = page.get_by_role("button", name="Resume", exact=True)
    toggle.press("Enter")
    page.keyboard.press("Enter")
    badge(page, "RUNNING")

    done(page, "INSERT INTO ticks VALUES ('2025-01-01T00:01:00Z', 'on time')")
    page.get_by_role("link", name="Jobs", exact=True).click()
    page.get_by_role("link", name=ODD, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(ODD)
    expect(page.locator(".facts")).to_contain_text("2025-01-01 00:00:55")
    done(page, f"INSERT INTO ticks VALUES ('2025-01-01T00:00:01Z', '{EVIL.replace(chr(39), chr(39) * 2)}')")
    page.go_back()
    expect(page.locator(".facts")).to_contain_text("1 in")
    page.get_by_text("Late rows", exact=True).last.click()
    expect(page.get_by_text("1 late row.")).to_be_visible()
    assert page.locator("main script, main img").count() == 0
    done(page, f"INSERT INTO ticks VALUES (NULL, '{EVIL.replace(chr(39), chr(39) * 2)}')")
    page.go_back()
    page.get_by_text("Dead letters", exact=True).last.click()
    expect(page.get_by_text("1 dead letter.")).to_be_visible()
    expect(page.locator("main")).to_contain_text("the event time t is NULL")
    assert page.locator("main script, main img").count() == 0
    page.get_by_text("Definition", exact=True).click()
    expect(page.locator("pre.code")).to_contain_text("CREATE JOB")
    shot(page, "late")


def tables(page):
    page.get_by_role("link", name="Tables", exact=True).click()
    expect(page.locator(".list li")).to_have_count(4)
    page.get_by_role("link", name=re.compile("^ticks")).click()
    expect(page.locator(".grid tbody tr")).to_have_count(2)
    expect(page.locator("pre.code")).to_contain_text("WATERMARK FOR t")
    shot(page, "tables")
    page.get_by_role("button", name="Query", exact=True).click()
    becomes(page, lambda text: text == 'SELECT * FROM "ticks" LIMIT 100')


def runs(page):
    """A run is ordered by keyboard: the history of the job, a range on it, and the statement that comes of it."""
    page.get_by_role("link", name="Runs", exact=True).click()
    expect(page.get_by_text("There are no runs.")).to_be_visible()
    tab_to(page, page.get_by_role("link", name="New run…"))
    page.keyboard.press("Enter")
    expect(page.get_by_text("Choose a job.")).to_be_visible()
    page.get_by_label("Job", exact=True).select_option(ODD)
    expect(page.locator(".time-axis svg")).to_be_visible()
    start = page.get_by_label("From", exact=True)
    end = page.get_by_label("To, which is not in it", exact=True)
    page.get_by_role("button", name="The windows of late rows").press("Enter")
    expect(start).to_have_value("2025-01-01T00:00:00")
    expect(end).to_have_value("2025-01-01T00:00:10")
    slider = page.get_by_role("slider", name="Beginning of the range")
    tab_to(page, page.get_by_role("slider", name="End of the range"))
    page.keyboard.press("Shift+Tab")
    assert slider.evaluate("node => node === document.activeElement")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(start).to_have_value("2025-01-01T00:00:03")
    expect(slider).to_have_attribute("aria-valuetext", "2025-01-01 00:00:03")
    code = page.get_by_label("The statement")
    expect(code).to_contain_text(f'PLAN REPROCESS JOB "{ODD}"')
    expect(code).to_contain_text("FROM '2025-01-01T00:00:03' TO '2025-01-01T00:00:10'")
    assert page.locator("main b").count() == 0
    shot(page, "new-run")
    end.fill("soon")
    expect(page.get_by_text("The end is an invalid time")).to_be_visible()
    expect(page.get_by_role("button", name="Plan", exact=True)).to_be_disabled()
    end.fill("2025-01-01T00:00:20")
    page.get_by_role("button", name="Open in the editor").press("Enter")
    becomes(page, lambda text: text.startswith("PLAN REPROCESS JOB"))


def narrow(page):
    page.set_viewport_size({"width": 360, "height": 740})
    for view in ["jobs", "jobs/copy", "tables/ticks", "runs", "reprocess/copy", "query"]:
        page.goto(f"{URL}#/{view}")
        page.wait_for_timeout(1_000)
        fits(page)
        shot(page, f"narrow-{view.replace('/', '-')}")
    run(page, "SELECT *, repeat('wide ', 100) AS more FROM system.batches")
    expect(page.locator(".grid tbody tr").first).to_be_visible()
    fits(page)
    shot(page, "narrow-rows")
    page.set_viewport_size({"width": 1280, "height": 800})


def without_server(page, context):
    page.goto(f"{URL}#/jobs")
    expect(page.get_by_role("link", name="copy", exact=True)).to_be_visible()
    context.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text("The server has not answered")
    expect(page.locator("#connection")).to_have_text("no answer")
    shot(page, "gone")
    context.set_offline(False)
    expect(page.locator("#banner")).to_be_hidden()
    expect(page.locator("#connection")).to_have_text("live")


def login(page):
    """A server with users: a reader sees all data and changes nothing."""
    page.goto(WITH_USERS)
    dialog = page.get_by_role("dialog", name="Log in")
    expect(dialog).to_be_visible()
    page.keyboard.type("reader")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(dialog.locator(".problem")).to_be_visible()
    shot(page, "login")
    dialog.get_by_label("Password").fill("reader-pw")
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)
    page.get_by_role("link", name="copy", exact=True).click()
    badge(page, "RUNNING")
    page.get_by_role("button", name="Pause", exact=True).press("Enter")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").locator(".problem")).to_contain_text("reader")
    page.keyboard.press("Escape")
    badge(page, "RUNNING")
    run(page, "CREATE VIEW mine AS SELECT 1 AS one")
    expect(page.locator(".problem .message")).to_contain_text("reader")
    run(page, "SELECT 7 AS seven")
    expect(page.locator(".grid tbody td")).to_have_text(["7"])
    page.get_by_role("button", name="Log out", exact=True).press("Enter")
    expect(page.get_by_role("dialog", name="Log in")).to_be_visible()


with sync_playwright() as playwright:
    path = next(found for found in map(shutil.which, NAMES) if found)
    browser = playwright.chromium.launch(executable_path=path)
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    faults = []
    # Errors of the browser, such as a refused script, are reported here as well.
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(URL)
    assert page.title() == "Jobs – Anabranch", page.title()
    queries(page)
    typing(page)
    live(page)
    jobs(page)
    tables(page)
    runs(page)
    narrow(page)
    page.emulate_media(color_scheme="dark")
    for view in ["jobs", "jobs/copy", "tables/ticks", "runs", "reprocess/copy", "query"]:
        page.goto(f"{URL}#/{view}")
        page.wait_for_timeout(700 if SHOTS else 0)
        shot(page, f"dark-{view.replace('/', '-')}")
    assert "taken" not in page.title()
    expected = re.compile("Failed to load resource: the server responded with a status of (400|409)")
    faults = [fault for fault in faults if not expected.match(fault)]
    assert not faults, faults
    without_server(page, context)
    login(page)
    browser.close()
print("done")
