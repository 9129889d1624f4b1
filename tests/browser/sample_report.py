"""The report of the bundled trace, made once per test by the real program, and copies of it with other data inside."""
import array
import atexit
import base64
import html
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "traces/samples/smollm2-135m-instruct.h5"
SKIPPED = 77
DATA = re.compile(r'(<script id="report-data" type="text/plain" data-encoding=")(\w+)(">)([^<]*)(</script>)')


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


class SampleReport:
    """run.h5, plan.h5 and report.html of the sample in a temporary folder."""

    def __init__(self, program):
        self.program = program
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="evictsim-browser-"))
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)
        self.run("replay", str(SAMPLE), "--policy", "full,snapkv,h2o,streaming_llm,keydiff,kivi,infllm,oracle_mass",
                 "--budget", "0.1,0.2,0.5", "--per", "layer,head,entry,steps", "-o", "run.h5")
        self.run("plan", "--model", "smollm2-135m", "--gpu", "l4", "--workload", "poisson", "--rate", "2,8",
                 "--requests-count", "40", "--profile", "run.h5", "--policy", "snapkv,h2o", "--slo", "ttft_p99=2s",
                 "-o", "plan.h5")
        self.run("report", "run.h5", "plan.h5", "-o", "report.html")
        self.page = self.folder / "report.html"

    def run(self, *arguments):
        done = subprocess.run([self.program, *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "has no page for reports" in done.stderr:
            skip(done.stderr.strip())
        assert done.returncode == 0, f"evictsim {' '.join(arguments)}: {done.stderr}"
        return done

    def data(self):
        """What the page holds, as the page reads it."""
        _, encoding, _, text, _ = DATA.search(self.page.read_text(encoding="utf-8")).groups()
        if encoding == "deflate":
            return json.loads(zlib.decompress(base64.b64decode(text)))
        return json.loads(html.unescape(text))

    def page_with(self, name, data):
        """A page beside the real one, with that data."""
        packed = base64.b64encode(zlib.compress(json.dumps(data).encode("utf-8"))).decode("ascii")
        text = self.page.read_text(encoding="utf-8")
        path = self.folder / f"{name}.html"
        path.write_text(DATA.sub(lambda m: m[1] + "deflate" + m[3] + packed + m[5], text), encoding="utf-8")
        return path


def floats(shape, values):
    """An array of float32 as the report stores it: four planes of bytes."""
    raw = array.array("f", values).tobytes()
    planes = b"".join(raw[k::4] for k in range(4))
    return {"type": "f32", "shape": list(shape), "data": base64.b64encode(planes).decode("ascii")}


def integers(shape, values):
    return {"type": "i32", "shape": list(shape), "data": base64.b64encode(array.array("i", values).tobytes()).decode("ascii")}


def octets(shape, values):
    return {"type": "u8", "shape": list(shape), "data": base64.b64encode(bytes(values)).decode("ascii")}
