"""A real browser that a test clicks in: Chromium by its own protocol (Chrome DevTools Protocol), over aiohttp."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
REQUIRED = "REQUIRE_BROWSER"
"""Environment variable, set in continuous integration: a missing browser is a failure and not a skip."""


class Tab:
    """A page of somebody with cookies of their own."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self.browser.send(method, self.session, **parameters)

    async def js(self, code: str) -> Any:
        """The value of an expression on the page."""
        got = await self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    async def until(self, code: str, seconds: float = 120) -> Any:
        """Waits for an expression to be true."""
        end = time.monotonic() + seconds
        while not (value := await self.js(code)):
            assert time.monotonic() < end, f"{code} is still {value!r}: {await self.js('document.body.innerText')}"
            await asyncio.sleep(0.1)
        return value

    async def open(self, address: str, ready: str) -> None:
        await self.send("Page.navigate", url=address)
        await self.until(ready)

    async def click(self, selector: str) -> None:
        """A real click in the middle of an element."""
        await self.until(f"!!document.querySelector({selector!r})")
        x, y = await self.js(
            f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def fill(self, selector: str, text: str) -> None:
        await self.js(f"(() => {{ const e = document.querySelector({selector!r}); e.focus(); e.select(); }})()")
        await self.send("Input.insertText", text=text)
        await self.js(f"document.querySelector({selector!r}).blur()")

    async def upload(self, selector: str, file: Path) -> None:
        root = (await self.send("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.send("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    async def screenshot(self, path: Path) -> None:
        import base64

        shot = await self.send("Page.captureScreenshot", captureBeyondViewport=False)
        path.write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """One Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.numbers = socket, itertools.count(1)
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self.socket:
            answer = json.loads(message.data)
            if "id" in answer:
                self.waiting.pop(answer["id"]).set_result(answer)

    async def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self.numbers)
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        whose = {} if session is None else {"sessionId": session}
        await self.socket.send_json({"id": number, "method": method, "params": parameters, **whose})
        got = await asyncio.wait_for(answer, 120)
        assert "error" not in got, (method, got["error"])
        return dict(got["result"])

    async def tab(self, width: int = 1440, height: int = 1000) -> Tab:
        whose = (await self.send("Target.createBrowserContext"))["browserContextId"]
        target = await self.send("Target.createTarget", url="about:blank", browserContextId=whose)
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(self, attached["sessionId"])
        await tab.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        return tab


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """Chromium with a profile in ``folder``."""
    profile = folder / "profile"
    process = subprocess.Popen(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
         f"--user-data-dir={profile}", "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        port = profile / "DevToolsActivePort"
        end = time.monotonic() + 120
        while not (port.is_file() and len(lines := port.read_text().split()) == 2):
            assert time.monotonic() < end, "the browser does not start"
            await asyncio.sleep(0.1)
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", max_msg_size=0) as socket,
        ):
            yield Browser(socket)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """Chromium for tests that are no coroutines, whose steps run in the loop of its reader."""
    if BROWSER is None:
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)("no chromium on PATH: apt-get install chromium")
    with asyncio.Runner() as runner:
        started = browser(folder)
        try:
            yield runner.run(started.__aenter__())
        finally:
            runner.run(started.__aexit__(None, None, None))
