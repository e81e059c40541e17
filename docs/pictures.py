"""Take the pictures of the documents: run the demo with more cameras and open its page in Chromium. `make pictures`."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from streamer.cli.demo import CONFIG, STREAM
from streamer.toyworld.world import World

HERE = Path(__file__).parent
CHROMIUM = "/usr/bin/chromium"
MORE = {"gate": 4, "yard": 9, "ramp": 12}
"""Names of the additional cameras, and the seeds of their worlds."""
REVIEWED = 12
"""Pictures in the review."""
ANSWERS_S = 8.0
"""Seconds before the first picture, so that the page shows some events."""
WATCHED_S = 4.0
"""Seconds of watching before a picture: a view follows boxes only while a browser watches."""


def main() -> None:
    with agent(MORE) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def shoot(file: str, path: str, size: tuple[int, int], **options: Any) -> None:
            context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
            page = context.new_page()
            page.goto(f"{address}/{path}")
            settle(page)
            time.sleep(WATCHED_S)
            page.screenshot(path=HERE / file)
            context.close()
            print(HERE / file, flush=True)

        time.sleep(ANSWERS_S)
        shoot("page.png", "", (1360, 860), color_scheme="light")
        shoot("page-dark.png", f"#{STREAM}", (1360, 860), color_scheme="dark")
        shoot("page-phone.png", f"#{STREAM}", (390, 844), color_scheme="light", device_scale_factor=2, is_mobile=True)
        review(browser)
        browser.close()
    with agent({}) as address:
        annotated(address)


def settle(page: Page) -> None:
    """Wait until the page shows every camera and a few new events."""
    page.wait_for_selector(".card:not([hidden]) .there")
    expect(page.locator(".card:not([hidden]):not(:has(.there))")).to_have_count(0)
    page.wait_for_selector("#events .fresh >> nth=2")


def annotated(address: str) -> None:
    """Save the newest annotated frame."""
    until = time.monotonic() + WATCHED_S
    while time.monotonic() < until:
        with urllib.request.urlopen(f"{address}/api/snapshot/{STREAM}.jpg?annotated=true", timeout=10) as answer:
            jpeg = answer.read()
        time.sleep(0.2)
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    cv2.imwrite(str(HERE / "annotated.png"), image)
    print(HERE / "annotated.png")


def review(browser: Browser) -> None:
    """Take the picture of the review page, with the answers of the shipped model about pictures of the demo's world."""
    command = [sys.executable, "-m", "streamer.cli", "dataset"]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(REVIEWED):
            cv2.imwrite(f"{folder}/{number:03}.png", World(number).scene(3.0).paint(800, 450))
        subprocess.run([*command, "annotate", folder, "--task", "object_detection"], check=True)
        with subprocess.Popen(
            [*command, "review", folder, "--name", "ann"], stdout=subprocess.PIPE, text=True
        ) as served:
            assert served.stdout is not None
            link = next(line.split()[-1] for line in served.stdout if line.startswith("open as"))
            page = browser.new_page(viewport={"width": 1200, "height": 675}, color_scheme="light")
            page.goto(link)
            page.wait_for_selector(".canvas img")
            for key in ("Enter", "Enter", "w", "2", "f", "Control+ArrowRight"):
                page.keyboard.press(key)
            page.wait_for_selector(".fixing")
            shot = Image.open(io.BytesIO(page.screenshot()))
            shot.quantize(128, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                HERE / "review.png", optimize=True
            )
            page.close()
            served.terminate()
    print(HERE / "review.png", flush=True)


@contextmanager
def agent(more: Mapping[str, int]) -> Iterator[str]:
    """Run the demo's agent with more cameras; yield the address of its page after the first answer."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        bind = "{}:{}".format(*free.getsockname())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.yaml"
        path.write_text(json.dumps(config(bind, more)))  # JSON is YAML
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder, "XDG_STATE_HOME": folder}
        with subprocess.Popen([sys.executable, "-m", "streamer.cli", "run", str(path)], env=environment) as process:
            try:
                wait_for_answers(f"http://{bind}", process)
                yield f"http://{bind}"
            finally:
                process.terminate()
                process.wait(30)


def config(bind: str, more: Mapping[str, int]) -> Mapping[str, Any]:
    demo: dict[str, Any] = CONFIG
    tasks = demo["streams"][STREAM]["tasks"]
    streams = {
        name: {"source": f"synthetic?seed={seed}&fps=25&size=800x450", "tasks": tasks}
        for name, seed in {STREAM: 1, **more}.items()
    }
    outputs = [{"kind": "mjpeg", "stream": name} for name in streams]
    return {**demo, "web": {"bind": bind}, "streams": streams, "outputs": outputs}


def wait_for_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/api/events?task=object_detection&limit=1", timeout=5) as answer:
                if b"streamer.result" in answer.read():
                    return
        except OSError:
            pass  # the page is not served yet
        time.sleep(0.5)
    raise SystemExit("no answer from the agent within 120 s")


if __name__ == "__main__":
    main()
