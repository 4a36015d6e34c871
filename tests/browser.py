"""A headless Chromium, driven over its debugging pipe: what a page asks for and complains about, and how it fits."""

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

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser itself stays off the network
)
# The browser reads file descriptor 3 and writes 4.
_START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find():
    """The path of a browser, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class Tab:
    """A tab of a browser; `events` holds all that it reported, in order."""

    def __init__(self, commands, reports):
        self._commands, self._reports = commands, reports
        self._rest, self._last, self._session = b"", 0, None
        self.events = []

    def send(self, method, **parameters):
        """Sends a command and waits for its result."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self, seconds=30):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reports], [], [], seconds)
            assert ready, "the browser does not answer"
            read = os.read(self._reports, 1 << 20)
            assert read, "the browser has stopped"
            self._rest += read
        message, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(message)
        if "method" in message:
            self.events.append(message)
        return message

    def attach(self):
        """Opens the tab."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def show(self, url, width, height=1000, dark=False):
        """Loads a page on a screen of this size, to its end."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                  mobile=width < 600)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=url)
        end = time.monotonic() + 30
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            assert time.monotonic() < end, "the page does not load"
            self._receive()
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(0))))")

    def evaluate(self, script):
        """The value of an expression in the page."""
        return self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)["result"].get(
            "value"
        )

    def screenshot(self):
        """The whole page as PNG."""
        return base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    @property
    def requested(self):
        """The addresses that the page asked for."""
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    @property
    def complaints(self):
        """Messages and errors on the console."""
        methods = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [event["params"] for event in self.events if event["method"] in methods]


@contextlib.contextmanager
def open_tab(folder):
    """A tab of a browser that keeps its files in `folder`."""
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for pair in (os.pipe(), os.pipe()) for end in pair]
    their_input, our_output, our_input, their_output = ends
    command = [sys.executable, "-c", _START, str(their_input), str(their_output), find(), *_OPTIONS,
               f"--user-data-dir={folder}"]  # fmt: skip
    with open(os.path.join(folder, "log"), "wb") as log:
        process = subprocess.Popen(command, pass_fds=(their_input, their_output), stdout=log, stderr=log)
    os.close(their_input)
    os.close(their_output)
    try:
        tab = Tab(our_output, our_input)
        tab.attach()
        yield tab
    finally:
        process.terminate()
        process.wait()
        os.close(our_output)
        os.close(our_input)
