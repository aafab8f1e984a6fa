"""A Chromium without a window, for tests of pages: its DevTools protocol over two pipes, standard library only.

`TINYTORCH_BROWSER` names the program; else the usual names on PATH are tried. `Browser.start()` says with `Missing` why
there is none. `python tests/browser.py` prints the browser's version, or why there is none with exit status 1.
"""
from __future__ import annotations

import base64
import collections
import io
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "chrome-headless-shell",
         "headless_shell", "microsoft-edge")
# --no-sandbox: containers often have no user namespaces, and only pages of our own are opened;
# --hide-scrollbars: their width differs between systems
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
           "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update",
           "--remote-debugging-pipe", "--force-color-profile=srgb"]
# the browser reads commands from descriptor 3 and answers on 4; numbers above 9 keep the two from getting in each
# other's way while they are moved
LAUNCH = """import fcntl, os, sys
r, w = (fcntl.fcntl(int(n), fcntl.F_DUPFD, 10) for n in sys.argv[1:3])
os.dup2(r, 3), os.dup2(w, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
SECONDS = 60  # for an answer: the first start of a browser on a busy machine takes some


class Missing(Exception):
    """There is no browser here, and why."""


def program() -> str:
    """The browser's path. Raises: Missing."""
    given = os.environ.get("TINYTORCH_BROWSER", "")
    if given:
        found = shutil.which(given)
        if found is None:
            raise Missing(f"TINYTORCH_BROWSER={given} is no program")
        return found
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise Missing("no Chromium on this machine: install chromium, or name one with TINYTORCH_BROWSER")
    return found


class Browser:
    """A running browser. `open(path)` makes a Page."""

    def __init__(self, path: str):
        self._folder = tempfile.TemporaryDirectory(prefix="browser", ignore_cleanup_errors=True)
        read_commands, self._out = os.pipe()
        self._in, write_answers = os.pipe()
        line = [sys.executable, "-I", "-S", "-c", LAUNCH, str(read_commands), str(write_answers), path, *OPTIONS,
                f"--user-data-dir={self._folder.name}", "about:blank"]
        self._errors = (Path(self._folder.name) / "stderr").open("wb")
        try:
            self._child = subprocess.Popen(line, pass_fds=(read_commands, write_answers), stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=self._errors)
        finally:
            os.close(read_commands)
            os.close(write_answers)
        self._number, self._rest = 0, b""
        self.events: dict[str, collections.deque] = {}  # of each page's session
        self.version = ""

    @classmethod
    def start(cls) -> Browser:
        """Raises: Missing where no browser is found or the one that is there does not answer."""
        if os.name != "posix":
            raise Missing("the browser is driven over pipes as Unix has them")
        path = program()
        browser = cls(path)
        try:
            browser.version = browser.call("Browser.getVersion")["product"]
        except (OSError, TimeoutError) as e:
            why = (Path(browser._folder.name) / "stderr").read_text(errors="replace").strip().splitlines()
            browser.close()
            raise Missing(f"{path} does not answer ({e}){': ' + why[-1] if why else ''}") from None
        return browser

    def close(self) -> None:
        if self._child.poll() is None:
            try:
                self.call("Browser.close")
                self._child.wait(10)
            except (OSError, TimeoutError, subprocess.TimeoutExpired):
                self._child.kill()
                self._child.wait()
        os.close(self._out)
        os.close(self._in)
        self._errors.close()
        self._folder.cleanup()

    def call(self, method: str, session: str | None = None, **parameters):
        """The answer to a command. Raises: RuntimeError for a refusal, TimeoutError, OSError where it has ended."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._out, data):]
        ends = time.monotonic() + SECONDS
        while True:
            answer = self._receive(ends, method)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, ends: float, what: str) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no answer to {what} in {SECONDS} s")
            chunk = os.read(self._in, 1 << 20)
            if not chunk:
                raise OSError("it ended")
            self._rest += chunk
        data, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(data)
        if "id" not in answer and answer.get("sessionId") in self.events:
            self.events[answer["sessionId"]].append(answer)
        return answer

    def open(self, path, width=1200, height=800, dark=False, scale=1) -> Page:
        """A page from a file, loaded, in a window of that size in CSS pixels."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.events[session] = collections.deque()
        page = Page(self, target, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.look(width, height, dark, scale)
        page.call("Page.navigate", url=Path(path).resolve().as_uri())
        page.wait("Page.loadEventFired")
        page.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page


class Page:
    """A loaded page."""

    def __init__(self, browser, target, session):
        self.browser, self._target, self._session = browser, target, session
        self.seen: list[dict] = []

    def call(self, method: str, **parameters):
        return self.browser.call(method, self._session, **parameters)

    def look(self, width, height, dark=False, scale=1) -> None:
        """Another size of the window, and whether the system is dark."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale,
                  mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def wait(self, method: str) -> None:
        ends = time.monotonic() + SECONDS
        while not any(e["method"] == method for e in self.events()):
            self.browser._receive(ends, method)

    def events(self) -> list[dict]:
        queue = self.browser.events[self._session]
        self.seen += queue
        queue.clear()
        return self.seen

    def run(self, script: str):
        """The value of a JavaScript expression, a promise's once it is kept. Raises: RuntimeError with its error."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            details = found["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return found["result"].get("value")

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, and exceptions that nobody caught."""
        found = []
        for e in self.events():
            given = e["params"]
            if e["method"] == "Runtime.exceptionThrown":
                found.append(given["exceptionDetails"].get("exception", {}).get("description", "exception"))
            elif e["method"] == "Runtime.consoleAPICalled" and given["type"] in ("error", "warning", "assert"):
                found.append(f"console.{given['type']}: {given['args']}")
            elif e["method"] == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
                found.append(given["entry"]["text"])
        return found

    def requests(self) -> list[str]:
        """What was asked for beside the page itself and what it carries as data."""
        asked = [e["params"]["request"]["url"] for e in self.events() if e["method"] == "Network.requestWillBeSent"]
        return [url for url in asked[1:] if not url.startswith(("data:", "about:"))]

    def click(self, x: float, y: float) -> None:
        """The mouse's left button at a place of the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def wheel(self, x: float, y: float, by: float, control=False) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=by,
                  modifiers=2 if control else 0)

    def type(self, text: str) -> None:
        """Keys, to the element that has the focus."""
        self.call("Input.insertText", text=text)

    def screenshot(self, whole=False) -> bytes:
        """A PNG of the window, or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(found["data"])

    def pixels(self, whole=False):
        """The screenshot as an array (height, width, 3) of 0 to 1."""
        from matplotlib.image import imread

        return imread(io.BytesIO(self.screenshot(whole)))[:, :, :3]

    def close(self) -> None:
        self.browser.call("Target.closeTarget", targetId=self._target)


def main() -> int:
    try:
        browser = Browser.start()
    except Missing as e:
        print(e)
        return 1
    print(browser.version)
    browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
