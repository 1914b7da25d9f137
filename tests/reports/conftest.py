"""A headless Chromium, spoken to over its debugging pipe: no driver program and no socket."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chiasm.pipelines.reports.colours import hex_colour
from chiasm.pipelines.reports.patient import PatientReport, VolumeRow

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
ARGUMENTS = (
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1000,640",
    "--remote-debugging-pipe",
)  # fmt: skip
SOFTWARE_WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
EXEC = "import os, sys; a = sys.argv; os.dup2(int(a[1]), 3); os.dup2(int(a[2]), 4); os.execvp(a[3], a[3:])"
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")


class Browser:
    """One page of one browser process.

    Parameters
    ----------
    program : str
    profile : Path
        Its throw-away profile folder.
    arguments : sequence of str
    """

    def __init__(self, program: str, profile: Path, *arguments: str) -> None:
        command_out, self._write = os.pipe()
        self._read, answer_in = os.pipe()
        command = [program, *ARGUMENTS, *arguments, f"--user-data-dir={profile}"]
        # Chromium reads commands from descriptor 3 and answers on 4; high numbers first, lest one be overwritten.
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for descriptor in (command_out, answer_in)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", EXEC, *map(str, high), *command], pass_fds=high,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for descriptor in (command_out, answer_in, *high):
            os.close(descriptor)
        self._rest, self._last, self._session = b"", 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        try:
            self._attach()
        except (EOFError, OSError, RuntimeError, TimeoutError):
            self.close()
            raise

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and return its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data) :]
        while True:
            answer = self._next(60.0)
            if answer.get("id") == self._last:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, page: Path, *, dark: bool = False) -> None:
        """Open a file and wait until it has loaded."""
        self.complaints.clear()
        self.requests.clear()
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, awaited when it is a promise."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(json.dumps(result["exceptionDetails"])[:2000])
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 120.0) -> None:
        """Wait until a JavaScript condition holds."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition}: {self.complaints}")
            time.sleep(0.05)

    def screenshot(self, **options: Any) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png", **options)["data"])

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        with contextlib.suppress(EOFError, OSError, TimeoutError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def _next(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise EOFError("the browser has ended")
            self._rest += part
        line, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in {"error", "assert", "warning"}:
            said = [part.get("value") or part.get("description") for part in parameters["args"]]
            self.complaints.append(json.dumps(said)[:500])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(json.dumps(parameters["entry"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"][:200])


def _start(tmp_path_factory: pytest.TempPathFactory, *arguments: str) -> Browser:
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here (Debian package: chromium)")
    return Browser(program, tmp_path_factory.mktemp("profile"), *arguments)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser with WebGL 2 in software."""
    browser = _start(tmp_path_factory, *SOFTWARE_WEBGL)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def browser_without_webgl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser whose pages get no WebGL context."""
    browser = _start(tmp_path_factory, *NO_WEBGL)
    yield browser
    browser.close()


@pytest.fixture(scope="session")
def axe(repository: Path) -> str:
    """The source of axe-core, from ``$CHIASM_AXE`` or a ``node_modules`` folder.

    It is not vendored: `.ci/run` gets it with ``npm pack axe-core`` into a folder outside the checkout, unpacks it, and
    sets ``CHIASM_AXE`` to its ``package/axe.min.js``.
    """
    places = [
        Path(os.environ.get("CHIASM_AXE", "/nonexistent")),
        repository / "node_modules/axe-core/axe.min.js",
        Path("/usr/share/nodejs/axe-core/axe.min.js"),
        Path("/usr/lib/node_modules/axe-core/axe.min.js"),
        Path("/usr/local/lib/node_modules/axe-core/axe.min.js"),
    ]
    for place in places:
        if place.is_file():
            return place.read_text("utf-8")
    pytest.skip("no axe-core here (npm pack axe-core, then CHIASM_AXE=.../axe.min.js)")


TABLE = {1: ("CSF", (86, 180, 233)), 2: ("grey matter", (230, 159, 0)), 3: ("white matter", (240, 228, 66))}


@pytest.fixture
def head() -> tuple[np.ndarray, np.ndarray]:
    """Return a small head: nested ellipsoids, brighter on the patient's right, and their labels."""
    shape = (40, 48, 36)
    axes = [np.linspace(-1, 1, n) for n in shape]
    radius = np.sqrt(sum(np.square(a) for a in np.meshgrid(*axes, indexing="ij")))
    labels = np.zeros(shape, np.uint8)
    for value, size in ((1, 0.8), (2, 0.65), (3, 0.45)):
        labels[radius < size] = value
    values = np.array([0.0, 30.0, 70.0, 100.0], np.float32)[labels] + 20.0 * (radius < 0.95)
    values[22:] *= 1.2
    return values.astype(np.float32), labels


@pytest.fixture
def report(head: tuple[np.ndarray, np.ndarray]) -> PatientReport:
    """Return the report of a patient that went well, with one warning."""
    values, labels = head
    counts = np.bincount(labels.ravel(), minlength=4)[1:] * 0.008
    rows = [
        VolumeRow(label=v, name=name, colour=hex_colour(rgb), volume_ml=float(ml), share=float(ml / counts.sum()))
        for (v, (name, rgb)), ml in zip(TABLE.items(), counts, strict=True)
    ]
    return PatientReport(
        key="sub-01", title="Brain tissue from a T1-weighted MRI", status="done", rows=rows,
        flags=["White matter is 1.2 ml: outside the plausible range."], notices=["A phantom, not a person."],
        methods="First paragraph.\n\nSecond paragraph.", citations=["Somebody A. A paper. A journal, 2020."],
        provenance={"inputs": {"sub-01/sub-01_T1w.nii.gz": "ab" * 32}, "version": "0.1.0", "plan": {"threads": 1}},
        background=values, labels=labels, spacing_mm=(2.0, 2.0, 2.0), label_table=TABLE, group_href="../index.html",
    )  # fmt: skip
