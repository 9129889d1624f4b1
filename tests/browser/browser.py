"""Headless Chromium with what the tests ask of a page."""
import base64
import json
import shutil
import time

from sample_report import skip

try:
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
except ImportError:
    webdriver = None

PATIENCE = 60


class Browser:
    def __init__(self, downloads):
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        if webdriver is None or chromium is None or driver is None:
            skip("the page is looked at with Debian's chromium, chromium-driver and python3-selenium")
        options = Options()
        options.binary_location = chromium
        for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.driver.execute_cdp_cmd("Browser.setDownloadBehavior",
                                    {"behavior": "allow", "downloadPath": str(downloads), "eventsEnabled": False})

    def close(self):
        self.driver.quit()

    def script(self, text, *arguments):
        return self.driver.execute_script(text, *arguments)

    def wait_for(self, condition, what, action=lambda: None):
        """`action` is done before every look: a page that is still being laid out may have missed the one before."""
        end = time.monotonic() + PATIENCE
        while True:
            action()
            if self.script(f"return Boolean({condition})"):
                return
            assert time.monotonic() < end, f"waited {PATIENCE} s for {what}"
            time.sleep(0.05)

    def point_at(self, find):
        """Moves the mouse to the middle of the element that the script `find` returns."""
        x, y = self.script(f"const box = ({find}).getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2];")
        for away in (5, 0):
            self.driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", "x": x - away, "y": y})

    def open(self, path, width=1280, theme="light"):
        """Opens a page and waits until all its sections are there; what was logged before is forgotten."""
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                    {"features": [{"name": "prefers-color-scheme", "value": theme}]})
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.as_uri())
        self.wait_for("document.documentElement.dataset.ready === 'true'", f"{path.name} to be laid out")

    def scroll_through(self):
        """As a reader would, which draws the charts that come near."""
        place = 0
        while place < self.script("return document.documentElement.scrollHeight"):
            self.script("window.scrollTo(0, arguments[0])", place)
            place += 800
            time.sleep(0.05)
        self.wait_for("[...document.querySelectorAll('[data-figure] .chart')].every((chart) => chart.dataset.marks !== undefined)",
                      "every chart to be drawn")
        self.script("window.scrollTo(0, 0)")

    def draw_everything(self):
        """What printing asks for, without a walk through the page."""
        self.script("window.dispatchEvent(new Event('beforeprint')); window.dispatchEvent(new Event('afterprint'));")

    def print_preview(self):
        """Lays the page out as for paper and draws everything for it; `print_done` ends it."""
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 760, "height": 1100, "deviceScaleFactor": 1, "mobile": False})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        self.script("window.dispatchEvent(new Event('beforeprint'))")

    def print_done(self):
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
        self.script("window.dispatchEvent(new Event('afterprint'))")

    def press(self, key, modifiers=0):
        code = {"Tab": 9, "ArrowRight": 39, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers,
                **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {})})

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self):
        """Addresses asked for since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]

    def marks(self):
        """Marks per figure, by name; charts that show none say why in words."""
        return self.script("""return Object.fromEntries([...document.querySelectorAll('[data-figure]')].map(
            (figure) => [figure.dataset.figure, Number(figure.querySelector('.chart').dataset.marks)]))""")

    def overflow(self):
        return self.script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")

    def first_paint(self):
        return self.script("return performance.getEntriesByName('first-contentful-paint')[0]?.startTime")

    def choose(self, selector, index):
        self.script("""const select = document.querySelector(arguments[0]); select.selectedIndex = arguments[1];
                       select.dispatchEvent(new Event('change', {bubbles: true}));""", selector, index)

    def time_of(self, selector, value):
        """Milliseconds from a change of a control until the page has painted again."""
        return self.driver.execute_async_script("""const [selector, value, done] = arguments; const control = document.querySelector(selector);
            const start = performance.now(); if (control.tagName === 'SELECT') control.selectedIndex = value; else control.value = value;
            for (const name of ['input', 'change']) control.dispatchEvent(new Event(name, {bubbles: true}));
            requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)));""", selector, value)

    def slide(self, selector, place):
        self.script("""const input = document.querySelector(arguments[0]); input.value = arguments[1];
                       input.dispatchEvent(new Event('input', {bubbles: true}));""", selector, place)

    def picture(self, figure):
        """What a figure's chart shows: its SVG, or its canvas as an image."""
        return self.script("""const chart = document.querySelector(`[data-figure="${arguments[0]}"] .chart`);
            const canvas = chart.querySelector('canvas'); return canvas ? canvas.toDataURL() : chart.innerHTML;""", figure)

    def screenshot(self, path, begin, height):
        """A WebP picture of the page from the top of the element `begin` on."""
        top = self.script("return document.querySelector(arguments[0]).getBoundingClientRect().top + window.scrollY", begin)
        width = self.script("return document.documentElement.clientWidth")
        image = self.driver.execute_cdp_cmd("Page.captureScreenshot", {
            "format": "webp", "quality": 70, "captureBeyondViewport": True,
            "clip": {"x": 0, "y": top, "width": width, "height": height, "scale": 1}})
        path.write_bytes(base64.b64decode(image["data"]))
