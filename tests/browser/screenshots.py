"""Makes the pictures of docs/report.md: screenshots.py build/demo/report.html docs"""
import pathlib
import sys

from browser import Browser

page, folder = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
browser = Browser(folder)
for name, width, theme, begin, height in (("curves", 1280, "light", "body", 2180), ("where", 1280, "dark", "#where", 1400),
                                          ("tokens", 390, "light", "#tokens", 1400)):
    browser.open(page, width, theme)
    browser.scroll_through()
    browser.screenshot(folder / f"report-{name}.webp", begin, height)
browser.close()
