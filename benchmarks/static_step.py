"""The decode step next to that of another checkout: `python -m benchmarks.static_step --checkout FOLDER`.

- `tokens`: the shipped model in float32 answers all tasks about toy scenes, with greedy search without and with drafts
  and with beams; each answer must have the same tokens in both checkouts.
- `speed`: seconds of decoding alone, in processes that take turns, and the ratio of the medians. Greater than 1 is
  slower than the other checkout.

Exits with 1 when an answer differs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).parent.parent
MAX_TOKENS = 128
FORCED = 32
"""Tokens of each answer that is timed."""
SPEED = {"shipped, float32": "shipped", "base, float32": "float32", "base, bfloat16": "bfloat16"}
ROWS = (1, 8)


class Worker:
    """The engine of a checkout, in a process of its own. Uses what all checkouts have."""

    def __init__(self, checkout: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, str(Path(__file__)), "--worker", "--threads", str(threads)]
        self._process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, function: str, *arguments: Any) -> Any:
        """Return what one of `FUNCTIONS` returns in the other process. Raises RuntimeError when that has ended."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([function, *arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the engine of the other process failed in {function}")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate(timeout=60)


# -- in the other process


def answers(first: int, images: int, quality: str, drafts: str) -> list[list[int]]:
    """Return the tokens of all tasks about some toy scenes; with drafts, each scene is answered twice."""
    from benchmarks.exactness import jobs

    engine = _engine("shipped", 15, drafts)
    found: list[list[int]] = []
    decode = engine.processor.decode

    def record(job: Any, max_tokens: int, generation: Any) -> Any:
        tokens[id(job)] = generation.tokens
        return decode(job, max_tokens, generation)

    engine.processor.decode = record
    for number in range(first, first + images):
        for _ in range(1 if drafts == "off" else 2):
            tokens: dict[int, list[int]] = {}
            scene = jobs(number, quality, MAX_TOKENS)  # type: ignore[arg-type]
            _run(engine, scene)
            found += [_cut(tokens[id(job)]) for job in scene]
    engine.processor.decode = decode
    return found


def decoding(model: str, rows: int) -> float:
    """Return the seconds of decoding `rows` answers side by side."""
    from benchmarks.exactness import jobs

    engine = _engine(model, max(ROWS), "off")
    seconds = 0.0
    step = engine.greedy.step

    def timed() -> None:
        nonlocal seconds
        started = time.perf_counter()
        step()
        seconds += time.perf_counter() - started

    engine.greedy.step = timed
    scene = [job for _ in range(rows) for job in jobs(0, "fast", FORCED, ("object_detection",))]
    _run(engine, scene)
    engine.greedy.step = step
    return seconds


FUNCTIONS = {function.__name__: function for function in (answers, decoding)}
_engines: dict[tuple[str, str], Any] = {}


def _engine(model: str, rows: int, drafts: str) -> Any:
    import torch

    from benchmarks.engine import base
    from pipelines.florence2.checkpoint import load
    from pipelines.florence2.checkpoint_files import open_folder
    from pipelines.florence2.fast.engine import FastEngine

    if (model, drafts) not in _engines:
        shipped = model == "shipped"
        checkpoint = load(open_folder(None), "cpu", "float32") if shipped else base(getattr(torch, model)).checkpoint
        _engines[model, drafts] = FastEngine(checkpoint, rows, drafts)  # type: ignore[arg-type]
    return _engines[model, drafts]


def _run(engine: Any, jobs: list[Any]) -> None:
    engine.admit(jobs)
    done = 0
    while done < len(jobs):
        done += len(engine.step())


def _cut(tokens: list[int]) -> list[int]:
    """Return the tokens up to the end."""
    return tokens[: tokens.index(2, 1) + 1] if 2 in tokens[1:] else tokens


def work(threads: int) -> None:
    """Answer the calls of a Worker."""
    import torch

    torch.set_num_threads(threads)
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    for line in sys.stdin:
        function, *arguments = json.loads(line)
        print(json.dumps(FUNCTIONS[function](*arguments)), file=output, flush=True)


# -- comparison


def compare_tokens(ours: Worker, theirs: Worker, images: int) -> dict[str, Any]:
    rows = {}
    for name, count, quality, drafts in (
        ("greedy", images, "fast", "off"),
        ("greedy with drafts", images // 4, "fast", "exact"),
        ("beams", images // 10, "official", "off"),
    ):
        equal = total = 0
        for number in range(count):
            pairs = list(zip(*(side("answers", number, 1, quality, drafts) for side in (ours, theirs)), strict=True))
            equal += sum(one == other for one, other in pairs)
            total += len(pairs)
        rows[name] = {"answers": total, "equal": equal}
        print(f"{name:24}{rows[name]}", flush=True)
    return rows


def compare_speed(ours: Worker, theirs: Worker, rounds: int) -> dict[str, Any]:
    results = {}
    for name, model in SPEED.items():
        for rows in ROWS:
            times: tuple[list[float], list[float]] = [], []
            for number in range(rounds + 1):
                # The first of each round changes, so that neither side is always behind the other.
                sides = [(ours, times[0]), (theirs, times[1])]
                for side, found in sides if number % 2 else reversed(sides):
                    found.append(side("decoding", model, rows))
            one, other = (statistics.median(found[1:]) for found in times)
            results[f"{name}, {rows} rows"] = {
                "ms_per_pass": round(1000 * one / FORCED, 2), "theirs": round(1000 * other / FORCED, 2),
                "ratio": round(one / other, 3),
            }  # fmt: skip
            print(f"{name}, {rows} rows", results[f"{name}, {rows} rows"], flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, help="folder of the other checkout")
    parser.add_argument("--only", choices=("tokens", "speed"))
    parser.add_argument("--images", type=int, default=200, help="toy scenes for greedy search [200]")
    parser.add_argument("--rounds", type=int, default=15, help="measurements of each side [15]")
    parser.add_argument("--threads", type=int, default=2, help="torch threads of each side [2]")
    parser.add_argument("--write", action="store_true", help="store the results in results/static_step.json")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.threads)
        return 0
    if args.checkout is None:
        parser.error("--checkout is missing")
    ours, theirs = (Worker(checkout.resolve(), args.threads) for checkout in (ROOT, args.checkout))
    results: dict[str, dict[str, Any]] = {}
    if args.only in (None, "tokens"):
        results["tokens"] = compare_tokens(ours, theirs, args.images)
    if args.only in (None, "speed"):
        results["speed"] = compare_speed(ours, theirs, args.rounds)
    ours.close()
    theirs.close()
    if args.write:
        from benchmarks.report import merge

        merge("static_step", results)
    return 0 if all(row["equal"] == row["answers"] for row in results.get("tokens", {}).values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
