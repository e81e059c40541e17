"""`streamer dataset review` as a user starts it, and a dataset to review."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import cv2

from pipelines.dataset.formats import coco
from pipelines.dataset.labels import LabelledObject, LabelledPicture, Labels
from pipelines.dataset.review.decisions import FILE
from streamer.toyworld.world import World
from tests.support.agents import until

SIZE = 320, 240
START_S = 120.0
"""Longest start of the command on a busy computer."""


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class ReviewServer:
    """The command with its page; a context manager that ends it as Ctrl-C does."""

    def __init__(self, folder: Path, *options: object, names: Sequence[str] = ("ann",)) -> None:
        words = [str(word) for name in names for word in ("--name", name)] + [str(word) for word in options]
        command = [sys.executable, "-u", "-m", "streamer.cli", "dataset", "review", str(folder), *words]
        self.folder, self.lines = folder, list[str]()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        until(lambda: len(self.links) == len(names) or self.process.poll() is not None, START_S, "served page")
        assert self.process.poll() is None, self.output

    def __enter__(self) -> ReviewServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(60)
        finally:
            self.kill()
        assert code == 0, self.output

    def kill(self) -> None:
        """End the process by SIGKILL, if it runs, and read the rest of its output."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def links(self) -> dict[str, str]:
        """The newest link by reviewer."""
        found = re.findall(r"(?:open as|opened as) ([\w-]+).*: (http://\S+)", self.output)
        return {name: link for name, link in found}

    def decisions(self) -> list[dict[str, Any]]:
        """Return the stored lines."""
        path = self.folder / FILE
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def login(self, name: str = "ann") -> str:
        """Open the newest link of a reviewer; return the cookie."""
        link = self.links[name]
        answer = self.request("GET", link[link.index("/open/") :])
        assert answer.status == 303, answer
        until(lambda: self.links[name] != link, START_S, "the next link")
        return answer.headers["set-cookie"].partition(";")[0]

    def request(self, method: str, path: str, cookie: str = "", body: object = None, **headers: str) -> Answer:
        host, port = re.findall(r"http://([\d.]+):(\d+)/", self.output)[0]
        connection = HTTPConnection(host, int(port), timeout=60)
        sent = {"Cookie": cookie, **headers} | ({} if body is None else {"Content-Type": "application/json"})
        try:
            connection.request(method, path, None if body is None else json.dumps(body), sent)
            response = connection.getresponse()
            return Answer(
                response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def next(self, cookie: str, after: int = -1) -> Any:
        return self.request("GET", f"/api/review/next?after={after}", cookie).json()

    def right(self, cookie: str, item: Mapping[str, Any]) -> Any:
        """Decide that all objects of a picture are right; return the next picture."""
        answer = self.request("POST", "/api/review/decisions", cookie, as_right(item))
        assert answer.status == 200, answer
        return answer.json()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip("\n"))


def as_right(item: Mapping[str, Any]) -> dict[str, Any]:
    objects = [{"label": o["label"], "box": o["box"], "source": n} for n, o in enumerate(item["objects"][0])]
    return {"number": item["number"], "labels": 0, "objects": objects}


def paint_dataset(folder: Path, count: int, scores: Sequence[float] = (0.3, 0.55, 0.8, 0.95)) -> Labels:
    """Write pictures of the toy world and `labels.json` with their true objects, scored in turn; return the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number in range(count):
        scene = World(540_000 + number).scene(3.0)
        file = f"{number:03}.jpg"
        assert cv2.imwrite(str(folder / file), scene.paint(*SIZE))
        objects = [
            LabelledObject(thing.kind, thing.box, score=scores[(number + place) % len(scores)])
            for place, thing in enumerate(scene.objects)
        ]
        pictures.append(LabelledPicture(file, *SIZE, tuple(objects)))
    names = sorted({one.label for picture in pictures for one in picture.objects})
    labels = Labels(tuple(names), tuple(pictures))
    coco.write(folder / "labels.json", labels)
    return coco.read(folder / "labels.json")
