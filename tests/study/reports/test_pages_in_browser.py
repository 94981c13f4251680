"""Every committed page in a browser, wide and at phone width: nothing is cut off, all works."""

import shutil
import time

import pytest

from lib.study.paths import ROOT

selenium = pytest.importorskip(
    "selenium", reason="selenium drives the browser: pip install .[test]"
)
from selenium.webdriver import Chrome, ChromeOptions  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
DRIVER = shutil.which("chromedriver")
PAGES = sorted((ROOT / "reports").glob("*/*.html"))
FOLDERS = sorted({path.parent.name for path in PAGES})
WIDTHS = (1200, 390)

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no Chromium here: 'apt-get install chromium chromium-driver' on Debian",
)

#: what sticks out of the page to the right, but for what scrolls within a box of its own
OVERFLOW = """
const wide = document.documentElement.clientWidth, found = [];
for (const element of document.body.querySelectorAll("*")) {
  if (element.getBoundingClientRect().right <= wide + 1) continue;
  let box = element.parentElement;
  while (box && !["auto", "scroll"].includes(getComputedStyle(box).overflowX))
    box = box.parentElement;
  if (!box) found.push(element.tagName + " " + element.textContent.slice(0, 60));
}
return found;
"""
#: text that a box hides without a way to scroll to it
CUT = """
return [...document.body.querySelectorAll("*")].filter(element => {
  const hides = ["hidden", "clip"].includes(getComputedStyle(element).overflowX);
  return hides && element.scrollWidth > element.clientWidth + 1;
}).map(element => element.tagName + " " + element.textContent.slice(0, 60));
"""
LOADED = """
const done = arguments[0], images = [...document.images];
images.forEach(image => { image.loading = "eager"; });
Promise.all(images.map(image => image.decode().then(() => null, () => image.getAttribute("src"))))
  .then(broken => done(broken.filter(Boolean)));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):  # fmt: skip
        options.add_argument(argument)
    driver = Chrome(options=options, service=Service(DRIVER))
    driver.set_script_timeout(30)
    yield driver
    driver.quit()


def show(browser, path, width):
    """Open a page in a window so wide."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser")
    browser.get(path.as_uri())


def test_there_are_pages():
    assert set(FOLDERS) >= {"embedded", "photos"} and len(PAGES) >= 20


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("path", PAGES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_nothing_is_cut_and_everything_loads(browser, path, width):
    show(browser, path, width)
    assert browser.execute_async_script(LOADED) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(OVERFLOW) == []
    assert browser.execute_script(CUT) == []
    assert browser.get_log("browser") == []
    for image in browser.find_elements(By.TAG_NAME, "img"):
        assert len(image.get_attribute("alt")) > 20


def slider_page(folder):
    return ROOT / "reports" / folder / "00_walkthrough.html"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_budget_slider_moves(browser, folder, width):
    show(browser, slider_page(folder), width)
    browser.execute_async_script(LOADED)
    dial, said, canvas = (
        browser.find_element(By.CSS_SELECTOR, f".budget-slider {name}")
        for name in ("input", "output", "canvas")
    )
    seen = {}
    for key in (Keys.HOME, Keys.END):
        dial.send_keys(key)
        time.sleep(0.1)  # a frame or two
        seen[int(said.text)] = canvas.screenshot_as_png
    few, many = sorted(seen)
    assert few * 10 < many and seen[few] != seen[many]


def test_the_checks_see_what_they_are_for(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        "<!DOCTYPE html><body style='margin:0'><img src='none.png' alt=''>"
        "<p style='width:3000px'>too wide</p>"
        "<div style='width:50px;overflow:hidden;white-space:nowrap'>hidden and never seen</div>"
        "<div style='overflow-x:auto'><p style='width:3000px'>scrolls</p></div>"
        "<script>nothing();</script>"
    )
    show(browser, page, 390)
    assert browser.execute_async_script(LOADED) == ["none.png"]
    assert browser.execute_script("return document.documentElement.scrollWidth") > 390
    assert [text.split()[0] for text in browser.execute_script(OVERFLOW)] == ["P"]
    assert len(browser.execute_script(CUT)) == 1
    messages = " ".join(entry["message"] for entry in browser.get_log("browser"))
    assert "ERR_FILE_NOT_FOUND" in messages and "nothing is not defined" in messages
