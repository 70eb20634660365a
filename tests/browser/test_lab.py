"""JupyterLab in Chromium, as a student meets it: cells run, the bar moves, the slider redraws: `make test-browser`.

Pictures of what was seen lie in .tmp/screenshots afterwards.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException, TimeoutException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from kdlib.paper.course import handout

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / ".tmp" / "screenshots"
PACKAGES = ("chromium", "chromium-driver")
RUN_ALL = ("//div[contains(@class, 'lm-MenuBar-itemLabel')][text()='Run']", "//li[@data-command='runmenu:run-all']")
BAR = ".jp-OutputArea .progress-bar, .jp-OutputArea .widget-hprogress [role=progressbar]"
ERROR = ".jp-OutputArea [data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText[data-mime-type*='error']"
PICTURE = ".jp-OutputArea img"


def install():
    """Chromium and its driver. Skips where they cannot be had."""
    if os.environ.get("KDLIB_BROWSER") != "1":
        pytest.skip("it may install Chromium; `make test-browser` says so, and does")
    if shutil.which("chromium") and shutil.which("chromedriver"):
        return
    if os.getuid() or not shutil.which("apt-get"):
        pytest.skip("there is no Chromium, and to install one takes root and apt-get")
    for arguments in (("update",), ("install", "--yes", "--no-install-recommends", *PACKAGES)):
        done = subprocess.run(["apt-get", "-q", *arguments], capture_output=True, text=True,
                              env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"})
        if done.returncode:
            pytest.skip(f"apt-get {arguments[0]} failed: {(done.stderr or done.stdout).splitlines()[-1]}")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """URL of a JupyterLab on copies of the notebooks, without outputs: what is seen has been computed."""
    install()
    place = tmp_path_factory.mktemp("lab")
    handout(ROOT / "notebooks", place / "notebooks")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with (place / "log").open("w") as log:
        server = subprocess.Popen(
            [Path(sys.executable).with_name("jupyter"), "lab", "--no-browser", "--allow-root", "--ServerApp.token=",
             "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--ServerApp.root_dir={place}",
             "--LabApp.news_url=None", "--LabApp.extension_manager=readonly"], stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.get(f"{url}/api/status", trust_env=False).raise_for_status()
            break
        except httpx.HTTPError:
            assert server.poll() is None and time.monotonic() < deadline, (place / "log").read_text()[-2000:]
            time.sleep(0.2)
    yield url
    server.terminate()
    server.wait(30)


@pytest.fixture(scope="module")
def browser(lab):
    """Chromium without a screen, tall enough for a whole notebook: Lab draws only the cells that can be seen."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1300,7000", "no-proxy-server"):
        options.add_argument(f"--{argument}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    PICTURES.mkdir(parents=True, exist_ok=True)
    yield driver
    driver.quit()


def see(browser, css):
    return browser.find_elements(By.CSS_SELECTOR, css)


def wait(browser, seconds, condition, what):
    """Ask until it is so, and again where Lab has drawn an element anew between its finding and its reading."""
    patient = WebDriverWait(browser, seconds, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException])
    return patient.until(lambda _: condition(), what)


def run_all(browser, lab, notebook):
    """Open the notebook, and choose Run, Run All Cells, again where Lab was not ready to obey."""
    browser.get(f"{lab}/lab/tree/notebooks/{notebook}.ipynb?reset")
    wait(browser, 120, lambda: see(browser, ".jp-Notebook-ExecutionIndicator[data-status=idle]"), "no kernel")

    def clicked(path):
        found = browser.find_elements(By.XPATH, path)
        return found and not found[0].click()

    for _ in range(5):
        for path in RUN_ALL:
            wait(browser, 30, lambda path=path: clicked(path), path)
        with contextlib.suppress(TimeoutException):
            return wait(browser, 10, lambda: prompts(browser)[0].strip("[]: "), "nothing runs")
        webdriver.ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    raise AssertionError("Run All Cells does nothing")


def prompts(browser):
    """What stands beside the code cells: `[ ]:`, `[*]:`, `[1]:` ..."""
    return [prompt.text for prompt in see(browser, ".jp-CodeCell .jp-InputPrompt")] or [""]


def finished(browser, cells):
    """Every code cell has its number."""
    numbers = [prompt.strip("[]: ") for prompt in prompts(browser)]
    return len(numbers) >= cells and all(map(str.isdigit, numbers))


def test_the_quickstart_runs_its_bar_moves_and_its_figures_appear(browser, lab):
    run_all(browser, lab, "00_quickstart")
    widths = []

    def moving():
        for bar in see(browser, BAR)[:1]:
            widths.append(bar.get_attribute("style") + (bar.get_attribute("aria-valuenow") or ""))
        return len(set(widths)) >= 3

    wait(browser, 180, moving, "no bar that moves")
    browser.save_screenshot(str(PICTURES / "00_quickstart-running.png"))
    wait(browser, 240, lambda: finished(browser, 8), "the notebook did not come to its end")
    assert not see(browser, ERROR)
    assert len(see(browser, PICTURE)) == 2, "the curve and who holds what"
    assert all(picture.get_attribute("naturalWidth") > "0" for picture in see(browser, PICTURE))
    browser.save_screenshot(str(PICTURES / "00_quickstart.png"))


def test_the_slider_of_alpha_redraws_the_bubbles(browser, lab):
    run_all(browser, lab, "01_data_heterogeneity")
    wait(browser, 240, lambda: finished(browser, 7), "the notebook did not come to its end")
    assert not see(browser, ERROR)

    def picture():
        return [each.get_attribute("src") for each in see(browser, ".jp-OutputArea img.widget-image")]

    wait(browser, 60, picture, "no bubbles below the slider")
    before, (readout,) = picture(), see(browser, ".jp-OutputArea .widget-readout")
    value = readout.text
    browser.save_screenshot(str(PICTURES / "01-before.png"))
    see(browser, ".jp-OutputArea .noUi-handle")[0].send_keys(Keys.ARROW_RIGHT)
    wait(browser, 60, lambda: readout.text != value and picture() and picture() != before, "the slider changed nothing")
    browser.save_screenshot(str(PICTURES / "01-after.png"))
