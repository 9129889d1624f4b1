"""Does the report's page show what it should in a browser, whatever is in its data?"""
import base64
import csv
import shutil
import sys
import time
import unittest
import xml.etree.ElementTree as xml

from browser import Browser
from sample_report import SAMPLE, SampleReport, floats, integers, octets

try:
    import h5py
    import numpy
except ImportError:
    h5py = None

MOST_BYTES = 5_000_000
PICTURES = {"error_budget_curves", "layer_head_1", "layer_head_2", "error_by_step", "error_by_position", "prompt_survival", "dilution", "bytes_per_tier",
            "bytes_over_steps", "frontier", "latency_against_load", "kv_over_time", "batch_over_time", "kv_budget_1", "cost"}
HOSTILE = ["</script><script>window.pwned = 1</script>", "<img src=x onerror='window.pwned = 1'>", "\u202eright to left\u202c",
           "nul\u0000nul", "\ufffd\ufffd", "x" * 1048576, "${window.pwned = 1}", "javascript:window.pwned=1", "@EVICTSIM_DATA@", "line\nend"]

sample = None
browser = None


def setUpModule():
    global sample, browser
    sample = SampleReport(sys.argv[1])
    browser = Browser(sample.folder)


def tearDownModule():
    if browser is not None:
        browser.close()


class PageTest(unittest.TestCase):
    def assert_quiet(self):
        self.assertEqual(browser.complaints(), [])
        self.assertIsNone(browser.script("return window.pwned ?? null"))

    def assert_stays_home(self, page):
        addresses = [url for url in browser.requests() if not url.startswith(("data:", "blob:"))]
        self.assertEqual([url for url in addresses if url != page.as_uri()], [])

    def opened(self, name, data, **options):
        page = sample.page_with(name, data)
        browser.open(page, **options)
        browser.draw_everything()
        self.assert_quiet()
        self.assertLessEqual(browser.overflow(), 0)
        return page


class RealReport(PageTest):
    def test_every_chart_is_drawn_at_both_widths_in_both_themes(self):
        self.assertLess(sample.page.stat().st_size, MOST_BYTES)
        for width in (1280, 390):
            for theme in ("light", "dark"):
                with self.subTest(width=width, theme=theme):
                    browser.open(sample.page, width, theme)
                    print(f"first paint at {width} pixels, {theme}: {browser.first_paint():.0f} ms")
                    browser.scroll_through()
                    marks = browser.marks()
                    self.assertLessEqual(PICTURES, set(marks))
                    self.assertEqual([name for name, count in marks.items() if not count > 0], [])
                    self.assertLessEqual(browser.overflow(), 0)
                    self.assert_quiet()
                    self.assert_stays_home(sample.page)

    def test_sections_and_policy_against_loading(self):
        browser.open(sample.page)
        ids = browser.script("return [...document.querySelectorAll('main > section')].map((section) => section.id)")
        self.assertEqual(ids, ["summary", "curves", "where", "tokens", "dilution", "memory", "plan", "provenance"])
        rules = browser.script("return document.querySelector('meta[http-equiv=Content-Security-Policy]').content")
        self.assertIn("default-src 'none'", rules)
        self.assertNotIn("unsafe", rules)
        self.assertIn("Redistribution and use in source and binary forms", browser.script("return document.getElementById('licences').textContent"))
        unnamed = browser.script("""return [...document.querySelectorAll('button, select, input')].filter(
            (one) => !(one.getAttribute('aria-label') || one.textContent.trim() || one.labels?.length > 0)).map((one) => one.outerHTML)""")
        self.assertEqual(unnamed, [])

    def test_sliders_and_selectors_change_what_is_drawn(self):
        browser.open(sample.page)
        browser.scroll_through()

        def changes(figure, act):
            before = browser.picture(figure)
            act()
            self.assertTrue(browser.picture(figure) != before, f"{figure} did not change")

        changes("layer_head_1", lambda: browser.choose("#where [data-control=map-policy]", 3))
        changes("layer_head_1", lambda: browser.slide("#where input[type=range]", 0))
        changes("layer_head_2", lambda: browser.slide("#where input[type=range]", 2))
        changes("error_budget_curves", lambda: browser.choose("#curves [data-control=metric]", 1))
        changes("error_budget_curves", lambda: browser.choose("#curves [data-control=against]", 1))
        changes("error_budget_curves", lambda: browser.script("document.querySelector('#curves .chips button').click()"))
        changes("bytes_per_tier", lambda: browser.slide("#memory input[type=range]", 0))
        changes("bytes_over_steps", lambda: browser.choose("#memory [data-control=memory-policy]", 1))
        changes("frontier", lambda: browser.choose("#plan [data-control=frontier-measure]", 1))
        changes("frontier", lambda: browser.choose("#plan [data-control=frontier]", 0))
        changes("latency_against_load", lambda: browser.choose("#plan [data-control=latency]", 0))
        changes("kv_over_time", lambda: browser.choose("#plan [data-control=over-time]", 3))
        self.assertEqual(browser.script("return document.querySelectorAll('#curves .chips button[aria-pressed=true]').length"), 1)
        changes("cost", lambda: browser.slide("#plan [data-control=price]", "7"))
        self.assertIn("at 7 per GPU hour", browser.script("return document.querySelector('[data-table=cost_by_deployment]').textContent"))
        changes("error_budget_curves", lambda: browser.script("document.getElementById('theme').click()"))
        self.assert_quiet()

    def test_hovering_shows_the_value(self):
        browser.open(sample.page)
        browser.scroll_through()
        chart = "document.querySelector('[data-figure=error_budget_curves] .chart')"
        browser.script(f"{chart}.scrollIntoView({{block: 'center'}})")
        browser.wait_for("!document.getElementById('tip').hidden", "the value under the pointer",
                         lambda: browser.point_at(f"[...{chart}.querySelectorAll('.point path')].at(-2)"))
        self.assertIn("predicted damage", browser.script("return document.getElementById('tip').textContent"))

    def test_paper_shows_everything_in_light_colours(self):
        browser.open(sample.page, theme="dark")
        browser.print_preview()
        self.assertEqual([name for name, count in browser.marks().items() if not count > 0], [])
        self.assertEqual(browser.script("return document.documentElement.dataset.theme"), "light")
        cut = browser.script("""return [...document.querySelectorAll('[data-figure] .chart')].filter((chart) => {
            const drawn = chart.firstElementChild.getBoundingClientRect(), room = chart.getBoundingClientRect();
            return drawn.width === 0 || drawn.right > room.right + 1 || drawn.bottom > room.bottom + 1 ||
                [...chart.querySelectorAll('svg g')].some((group) => getComputedStyle(group).display === 'none');
          }).map((chart) => chart.closest('figure').dataset.figure)""")
        self.assertEqual(cut, [])
        self.assertLessEqual(browser.overflow(), 0)
        # The buttons that name the policies are not printed, so charts name them.
        self.assertIn("snapkv", browser.script("return document.querySelector('[data-figure=error_budget_curves] .chart').textContent"))
        browser.print_done()
        self.assertEqual(browser.script("return document.documentElement.dataset.theme"), "auto")
        self.assert_quiet()

    def test_the_keyboard_reaches_every_control(self):
        browser.open(sample.page)
        browser.draw_everything()
        browser.script("""[...document.querySelectorAll('a[href], button, select, input, summary, [tabindex="0"]')].filter(
            (one) => one.checkVisibility()).forEach((one, i) => { one.dataset.stop = i; });
            window.reached = new Set(); addEventListener('focusin', (event) => window.reached.add(event.target.dataset.stop));""")
        stops = browser.script("return document.querySelectorAll('[data-stop]').length")
        self.assertGreater(stops, 80)
        for _ in range(stops + 2):
            browser.press("Tab")
        missed = browser.script("""return [...document.querySelectorAll('[data-stop]')].filter(
            (one) => !window.reached.has(one.dataset.stop)).map((one) => one.outerHTML.slice(0, 200))""")
        self.assertEqual(missed, [])
        self.assertGreater(browser.script("const one = document.querySelector('#curves button'); one.focus(); return parseFloat(getComputedStyle(one).outlineWidth)"), 0)

        before = browser.picture("layer_head_1")
        browser.script("document.querySelector('#where input[type=range]').focus()")
        browser.press("ArrowRight")
        self.assertTrue(browser.picture("layer_head_1") != before, "the slider does not follow the arrow keys")
        browser.script("document.querySelector('#curves .chips button').focus()")
        browser.press("Enter")
        self.assertEqual(browser.script("return document.querySelectorAll('#curves .chips button[aria-pressed=true]').length"), 1)

    def test_charts_have_words_and_values(self):
        browser.open(sample.page)
        browser.draw_everything()
        silent = browser.script("""return [...document.querySelectorAll('[data-figure]')].filter((figure) => {
            const chart = figure.querySelector('.chart');
            return chart.getAttribute('role') !== 'img' || !chart.getAttribute('aria-label') || !figure.querySelector('details.values');
          }).map((figure) => figure.dataset.figure)""")
        self.assertEqual(silent, [])

    def test_values_behind_a_chart_are_a_table(self):
        browser.open(sample.page)
        browser.script("document.querySelector('[data-figure=error_budget_curves] details').open = true")
        browser.wait_for("document.querySelectorAll('[data-figure=error_budget_curves] details tbody tr').length > 0", "the values")
        run = sample.data()["runs"][0]
        shown = browser.script("return document.querySelector('[data-figure=error_budget_curves] details table').textContent")
        self.assertIn(run["policies"][0]["name"], shown)

    def test_every_figure_and_table_downloads(self):
        browser.open(sample.page)
        browser.draw_everything()
        names = browser.script("""return [...document.querySelectorAll('.tools')].flatMap((tools) => [...tools.querySelectorAll('button')].map(
            (button) => button.getAttribute('aria-label').replace(/^Download (.*) as (.*)$/, (_, name, kind) => `${name}.${kind.toLowerCase()}`)))""")
        self.assertEqual(len(set(names)), len(names))
        self.assertEqual({name[:-4] for name in names if name.endswith(".svg")}, set(browser.marks()))
        tables = browser.script("return [...document.querySelectorAll('[data-table]')].map((table) => table.dataset.table)")
        self.assertLessEqual({f"{table}.csv" for table in tables}, set(names))
        for place, name in enumerate(names):
            path = sample.folder / name
            browser.script("document.querySelectorAll('.tools button')[arguments[0]].focus()", place)
            browser.press("Enter")
            end = time.monotonic() + 20
            while not (path.exists() and path.stat().st_size > 0) and time.monotonic() < end:
                time.sleep(0.02)
            with self.subTest(file=name):
                if path.suffix == ".svg":
                    drawn = xml.parse(path).getroot()
                    self.assertTrue(drawn.tag.endswith("svg"))
                    self.assertGreater(sum(1 for one in drawn.iter() if one.tag.endswith("path")), 2)
                elif path.suffix == ".png":
                    head = path.read_bytes()[:24]
                    self.assertEqual(head[:8], b"\x89PNG\r\n\x1a\n")
                    self.assertGreater(int.from_bytes(head[16:20], "big"), 640)
                else:
                    with path.open(encoding="utf-8", newline="") as file:
                        lines = list(csv.reader(file))
                    self.assertGreater(len(lines), 1)
                    self.assertEqual({len(line) for line in lines}, {len(lines[0])})
        with (sample.folder / "error_budget_curves.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        run = sample.data()["runs"][0]
        self.assertEqual({row["policy"] for row in rows}, {policy["name"] for policy in run["policies"]})
        self.assertTrue(all(float(row[run["default_metric"]]) >= 0 for row in rows))
        self.assert_quiet()

    def test_a_partial_prediction_is_said_where_it_is_shown(self):
        run = sample.data()["runs"][0]
        self.assertEqual(run["default_metric"], "predicted_kl")
        note = next(metric["note"] for metric in run["metrics"] if metric["name"] == "predicted_kl")
        self.assertIn("7 of 30 layers", note)
        browser.open(sample.page)
        for place in ("#summary", "[data-figure=error_budget_curves] figcaption", "[data-table=best_predicted_kl]"):
            self.assertIn(note, browser.script("return document.querySelector(arguments[0]).textContent", place))
        browser.choose("#curves [data-control=metric]", 1)
        self.assertNotIn(note, browser.script("return document.querySelector('[data-figure=error_budget_curves] figcaption').textContent"))


def one_policy(data):
    """The report as it would be with one policy at one budget."""
    run = data["runs"][0]
    run["policies"], run["budgets"] = run["policies"][1:2], run["budgets"][:1]
    run["behind"] = integers([1, 1], [1])
    run["within"] = octets([1, 1], [1])
    run["metrics"] = [dict(metric, values=floats([1, 1], [0.25]), low=None, high=None) for metric in run["metrics"]]
    run["fronts"], run["best"] = {}, {}
    run["where"] = run["tokens"] = run["dilution"] = None
    run["memory"] = {"steps": None, "hbm": None, "host": None, "disk": None}
    return data


@unittest.skipIf(h5py is None, "the trace is made hostile with Debian's python3-h5py")
class HostileTrace(PageTest):
    def test_what_a_trace_holds_is_text(self):
        """From the trace on: its tokens, names and model are what an attacker wrote."""
        trace = sample.folder / "hostile.h5"
        shutil.copy(SAMPLE, trace)
        texts = [text.encode("utf-8") for text in HOSTILE] + [b"\xff\xfe\xc3(", b"cut \xe2\x82"]
        with h5py.File(trace, "r+") as file:
            sequence = file["sequences/000000"]
            tokens = texts + [b"word "] * (sequence.attrs["length"] - len(texts))
            del sequence["token_bytes"], sequence["token_ends"]
            sequence["token_bytes"] = numpy.frombuffer(b"".join(tokens), numpy.uint8)
            sequence["token_ends"] = numpy.cumsum([len(token) for token in tokens]).astype(numpy.int32)
            sequence.attrs["request_id"] = sequence.attrs["task"] = HOSTILE[0]
            file.attrs["model"] = HOSTILE[0] + HOSTILE[2]
        sample.run("replay", trace.name, "--policy", "streaming_llm,window", "--budget", "0.5", "--per", "layer,head,entry,steps", "-o", "hostile.run.h5")
        sample.run("report", "hostile.run.h5", trace.name, "-o", "hostile_trace.html")
        page = sample.folder / "hostile_trace.html"
        self.assertLess(page.stat().st_size, MOST_BYTES)
        for width in (1280, 390):
            browser.open(page, width)
            browser.scroll_through()
            self.assert_quiet()
            self.assert_stays_home(page)
            self.assertLessEqual(browser.overflow(), 0)
        shown = browser.script("return document.querySelector('.tokens').textContent")
        for text in (HOSTILE[0], HOSTILE[1], "nul\u2400nul", "1048576 bytes", "\ufffd"):
            self.assertIn(text, shown)
        self.assertNotIn("\u202e", browser.script("return [...document.querySelectorAll('header, main, footer')].map((one) => one.textContent).join()"))
        self.assertEqual(browser.script("return document.querySelectorAll('main img, main script, main iframe').length"), 0)


class OtherData(PageTest):
    def test_hostile_text_is_text(self):
        data = sample.data()
        run = data["runs"][0]
        for policy, text in zip(run["policies"], HOSTILE):
            policy["name"] = policy["expansion"] = text[:400]
        data["title"] = run["model"] = run["name"] = run["sequences"][0]["name"] = HOSTILE[0]
        data["command_line"] = HOSTILE[1]
        data["summary"]["sentences"] = HOSTILE[:3]
        data["summary"]["asked"] = ["x" * 500]
        data["missing"].append({"section": "curves", "part": "bytes", "run": 0, "plan": None, "why": HOSTILE[1]})
        for plan in data["plans"]:
            plan["labels"] = [HOSTILE[row % 2] for row in range(plan["rows"])]
        length = 600
        texts = [HOSTILE[e % len(HOSTILE)] if e < len(HOSTILE) else "word " for e in range(length)]
        places = len(run["policies"])
        run["tokens"] = [{
            "sequence": 0, "length": length, "text": texts, "spans": [{"kind": "evidence", "begin": 3, "end": 9}],
            "policies": list(range(places)), "budgets": [0],
            "kept": floats([places, 1, length], [(e + p) % 5 / 4 for p in range(places) for e in range(length)]),
            "lost": None, "premature": floats([places, 1, length], [e % 7 / 70 for _ in range(places) for e in range(length)]), "heads": None}]
        page = self.opened("hostile", data)
        self.assert_stays_home(page)
        shown = browser.script("return [...document.querySelectorAll('.tokens')][0].textContent")
        self.assertIn(HOSTILE[0], shown)
        self.assertIn(HOSTILE[1], shown)
        self.assertNotIn("\u202e", shown)
        self.assertNotIn("\u0000", shown)
        self.assertIn("nul\u2400nul", shown)
        self.assertEqual(browser.script("return document.querySelectorAll('main img, main script, main iframe').length"), 0)
        self.assertGreater(browser.script("return document.querySelectorAll('.tokens .evidence').length"), 0)
        self.opened("hostile_narrow", data, width=390)

    def test_tokens_follow_policy_layer_and_head(self):
        data = sample.data()
        run = data["runs"][0]
        text = [f"w{e} " for e in range(40)]
        bits = bytes((17 * i + 5) % 256 for i in range(2 * 1 * 2 * 3 * 5))
        run["tokens"] = [{
            "sequence": 0, "length": 40, "text": text, "spans": [{"kind": "evidence", "begin": 2, "end": 4}], "policies": [0, 1], "budgets": [0],
            "kept": floats([2, 1, 40], [0.5] * 40 + [0.25] * 40), "lost": None, "premature": None,
            "heads": {"layers": [0, 4], "heads": 3, "policies": [0, 1], "budgets": [0],
                      "kept": {"type": "bits", "shape": [2, 1, 2, 3, 40], "data": base64.b64encode(bits).decode("ascii")}}}]
        self.opened("tokens", data)

        def colours():
            return browser.script("return [...document.querySelectorAll('.tokens')[0].querySelectorAll('span')].map((span) => span.title)")

        browser.choose("[data-control=token-policy]", 0)
        self.assertEqual(set(title.split(": ")[1] for title in colours()), {"50 %"})
        browser.choose("[data-control=token-policy]", 1)
        self.assertEqual(set(title.split(": ")[1] for title in colours()), {"25 %"})
        browser.choose("[data-control=token-layer]", 2)
        browser.choose("[data-control=token-head]", 3)
        # Policy 1, layer 1 of the axis, head 2: the eleventh row of five bytes, lowest bit first.
        row = bits[55:60]
        expected = ["100 %" if row[e // 8] >> e % 8 & 1 else "0 %" for e in range(40)]
        self.assertEqual([title.split(": ")[1] for title in colours()], expected)

    def test_missing_parts_are_said(self):
        def without(change):
            data = sample.data()
            change(data)
            return data

        def lose(section, why):
            def change(data):
                if section == "plan":
                    data["plans"] = []
                else:
                    data["runs"][0][section] = None
                data["missing"] = [entry for entry in data["missing"] if entry["section"] != section]
                data["missing"].append({"section": section, "part": None, "run": None if section == "plan" else 0, "plan": None, "why": why})
            return change

        for section in ("where", "tokens", "dilution", "plan"):
            with self.subTest(section=section):
                why = f"For a reason, {section} is not here"
                self.opened(f"without_{section}", without(lose(section, why)))
                self.assertIn(why, browser.script("return document.getElementById(arguments[0]).textContent", section))

        def no_runs(data):
            data["runs"] = []

        def nothing(data):
            data.update(runs=[], plans=[], files=[], missing=[], summary={"asked": [], "sentences": [], "caveat": ""})

        def no_values(data):
            for metric in data["runs"][0]["metrics"]:
                shape = metric["values"]["shape"]
                metric.update(values=floats(shape, [float("nan")] * (shape[0] * shape[1])), low=None, high=None)
            data["runs"][0].update(fronts={}, best={})

        for name, change in {"no_runs": no_runs, "nothing": nothing, "no_values": no_values, "one_policy": one_policy}.items():
            with self.subTest(name=name):
                self.opened(name, without(change))
                self.opened(f"{name}_narrow", without(change), width=390)
                self.assertEqual(browser.script("return document.querySelectorAll('main > section').length"), 8)

    def test_a_large_study(self):
        policies, budgets, layers, heads = 40, 20, 32, 32
        data = sample.data()
        run = data["runs"][0]
        model = run["metrics"][0]
        shares = [0.05 * (b + 1) for b in range(budgets)]
        values = [(1 + p / 10) * (1.02 - share) for p in range(policies) for share in shares]
        run["policies"] = [{"name": f"policy_{p}", "expansion": f"policy_{p}()", "kind": "policy", "status": "ok"} for p in range(policies)]
        run["budgets"] = [{"text": f"{share:.2f}", "value": share, "share": share} for share in shares]
        run["behind"] = integers([policies, budgets], [1] * (policies * budgets))
        run["within"] = octets([policies, budgets], [1] * (policies * budgets))
        run["metrics"] = [dict(model, values=floats([policies, budgets], values), low=None, high=None)]
        run["fronts"] = {model["name"]: {"budget": octets([policies, budgets], [int(p == 0) for p in range(policies) for _ in shares]), "bytes": None}}
        run["best"] = {}
        cells = [value * (0.5 + (layer * 7 + head * 3) % 11 / 11) for value in values for layer in range(layers) for head in range(heads)]
        packed = floats([policies, budgets, layers, heads], cells)
        run["where"] = {"layers": list(range(layers)), "heads": heads, "sequences": 1, "by_step": None, "by_position": None, "by_head": [
            {"name": name, "title": name, "better": "lower", "values": packed} for name in ("output_error", "retained_mass")]}
        run["tokens"] = run["dilution"] = None
        page = self.opened("large", data)
        print(f"{policies} policies, {budgets} budgets, {layers} x {heads} heads: {page.stat().st_size / 1e6:.1f} MB, "
              f"first paint {browser.first_paint():.0f} ms")
        self.assertEqual(browser.marks()["layer_head_1"], layers * heads + 1)
        before = browser.picture("layer_head_1")
        for what, selector, values in (("the budget of both maps", "#where input[type=range]", (0, 5, 10, 15, 19)),
                                       ("the policy of both maps", "#where [data-control=map-policy]", (7, 39)),
                                       ("the curves' metric", "#curves [data-control=metric]", (0,))):
            times = [browser.time_of(selector, value) for value in values]
            print(f"until the page is painted after a change of {what}: {', '.join(f'{one:.0f}' for one in times)} ms")
        self.assertTrue(browser.picture("layer_head_1") != before, "the map did not change")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
