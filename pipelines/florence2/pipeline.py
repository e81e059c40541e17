"""The Florence-2 pipeline, found through the entry point group `streamer.pipelines`. Only `open` imports torch."""

from __future__ import annotations

import gc
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from pipelines.florence2.card_count import count_cards
from pipelines.florence2.checkpoint_files import CheckpointFiles, open_folder
from pipelines.florence2.cost_table import shipped_costs
from pipelines.florence2.fast.speculative import DraftMode
from pipelines.florence2.generation_settings import unsupported
from pipelines.florence2.grounded import GROUNDED_SPECS, caption_job
from pipelines.florence2.prompts import length_error, prompt_texts
from pipelines.florence2.stages import with_stages
from pipelines.florence2.tasks import SPECS, Parameters
from streamer.core import nvidia
from streamer.core.errors import ConfigError
from streamer.core.malloc import large_blocks_freed_at_once, release_unused
from streamer.core.paths import cache_home
from streamer.core.settings import Settings
from streamer.types import Costs, Device, Engine, Job, TaskSpec

if TYPE_CHECKING:
    import torch

    from pipelines.florence2.checkpoint import Checkpoint
    from pipelines.florence2.fast.davit import DaViT
    from pipelines.florence2.fast.encoder import Encoder
    from pipelines.florence2.fast.engine import FastEngine
    from pipelines.florence2.fast.graphs import Runner
    from pipelines.florence2.reference_engine import ReferenceEngine

    Graphs = Callable[[torch.device], Runner]

log = logging.getLogger(__name__)

DraftField = Annotated[
    DraftMode,
    BeforeValidator(
        lambda value: {True: "exact", False: "off"}[value] if isinstance(value, bool) else value,
        json_schema_input_type=DraftMode | bool,
    ),
]
"""The name of a draft mode; a boolean, the key's type in earlier versions, is also accepted."""

DeviceName = Annotated[
    str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?|openvino:(GPU(\.\d+)?|NPU))$", examples=["cpu", "cuda:0"])
]
ListedDevice = Annotated[str, Field(pattern=r"^(cpu|cuda:\d+|openvino:(GPU(\.\d+)?|NPU))$", examples=["cuda:0"])]
"""One of several devices: `auto` and `cuda` could be one that another entry names."""
DeviceList = Annotated[tuple[ListedDevice, ...], Field(min_length=1, max_length=64)]

PROCESS_BYTES = 200_000_000
"""Memory of an inference process without the weights."""
SHORT_PROMPT = 100
"""Characters; every published checkpoint takes a prompt of this length."""


class Florence2Settings(Settings):
    """The config's `model:` block."""

    checkpoint: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)] | None = None
    """A folder, or a hub name such as florence-community/Florence-2-base-ft; left out: the small shipped model."""
    hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12,64}$")] | None = None
    """First digits of the hash that the checkpoint must have; then events name it beside the checkpoint."""
    device: DeviceName | DeviceList = "auto"
    """auto (all CUDA GPUs, the CPU where there is none), cpu, cuda, cuda:N; openvino:GPU or openvino:NPU of an Intel
    processor. A list such as [cuda:0, cuda:1]: the streams are divided among these."""
    backend: Literal["auto", "torch", "openvino"] = "auto"
    """openvino: OpenVINO runs the vision tower and text encoder (extra `openvino`). auto: also on a CPU, if it is
    installed and the model is large; else torch."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 on a GPU (float16 before Ampere); on a CPU float32 for a small model, else the faster of
    bfloat16 and float32."""
    image_size: int | None = Field(default=None, ge=1)
    """Side in pixels of the square that the model sees: 384, 512, 640 or 768; left out: the checkpoint's own size. A
    smaller size is faster and misses small objects."""
    max_batch: int = Field(default=8, ge=1, le=256)
    """Maximum number of jobs that run together."""
    gpu_memory: float = Field(default=0.9, gt=0, le=1)
    """Share of the memory of a graphics card that the engine may use in total; no effect without a card."""
    graphs: Literal["auto", "compiled", "off"] = "auto"
    """On a graphics card. auto: steps of the fast engine are recorded as CUDA graphs if they give the same tokens.
    compiled: torch.compile makes their kernels first, which takes minutes at each start. off: no graphs."""
    engine: Literal["auto", "plain", "fast"] = "auto"
    """auto: fast where it supports the checkpoint, else plain. plain: the reference, transformers' generate."""
    drafts: DraftField = "exact"
    """Drafts from a camera's previous answer in the fast engine. exact: never changes an answer. near: also keeps a
    location next to the best one, a thousandth of the picture away. off: no drafts."""
    int8: Literal["auto", "off"] = "auto"
    """auto: tasks that passed `streamer model quantize` run in int8 on a CPU. off: none does."""

    @model_validator(mode="after")
    def _check_backend(self) -> Florence2Settings:
        names = [self.device] if isinstance(self.device, str) else self.device
        for name in names:
            if name.startswith("cuda") and names.count(name) > 1:
                raise ValueError(f"{name} is in the list twice: one process uses the whole card")
        for name in names:
            self._check_device(name)
        return self

    def _check_device(self, name: str) -> None:
        one = self.for_device(name)
        if one.openvino_device is None:
            if name.startswith("openvino:"):
                raise ValueError(f"device {name} needs `backend: openvino` or `auto`")
            return
        if name.startswith("cuda"):
            raise ValueError("OpenVINO does not run on CUDA devices: use `device: cpu`, or `backend: torch`")
        if self.engine == "plain":
            raise ValueError("the plain engine is pure torch: use `engine: fast` with OpenVINO, or `backend: torch`")

    def for_device(self, name: str) -> Florence2Settings:
        """Return these settings with one device."""
        return self.model_copy(update={"device": name})

    @property
    def one_device(self) -> str:
        """The device; the first of a list, whose other devices have settings of their own: `Florence2.devices`."""
        return self.device if isinstance(self.device, str) else self.device[0]

    @property
    def openvino_device(self) -> str | None:
        """Name of the OpenVINO device that the settings ask for; None: none, or `auto` decides."""
        if self.backend != "torch" and self.one_device.startswith("openvino:"):
            return self.one_device.removeprefix("openvino:")
        return "CPU" if self.backend == "openvino" else None


class Florence2:
    """The `streamer.types.Pipeline` of Florence-2."""

    settings: type[Florence2Settings] = Florence2Settings

    def __init__(self, graphs: Graphs | None = None) -> None:
        """`graphs` returns the runner that records programs for a device; None: CUDA graphs, on a card only."""
        self._graphs = graphs

    def tasks(self) -> Mapping[str, TaskSpec]:
        return SPECS | GROUNDED_SPECS

    def refuse(self, settings: Florence2Settings, task: str, params: Parameters) -> str | None:
        prompt = max(prompt_texts(task, params), key=len)
        if settings.checkpoint is not None and settings.image_size is None and len(prompt) < SHORT_PROMPT:
            return None
        try:
            files = open_folder(settings.checkpoint, download=False)
        except ConfigError:
            return None  # `open` reports a checkpoint that is missing or damaged
        try:
            return length_error(files.with_image_size(settings.image_size), prompt)
        except ConfigError as error:
            return str(error)

    def devices(self, settings: Florence2Settings) -> Sequence[Device]:
        names = [settings.device] if isinstance(settings.device, str) else list(settings.device)
        if names == ["auto"] and settings.openvino_device is None and (cards := count_cards()) > 1:
            names = [f"cuda:{number}" for number in range(cards)]
        return [Device(name, settings.for_device(name)) for name in names]

    def costs(self, settings: Florence2Settings) -> Costs:
        return shipped_costs(settings.checkpoint, settings.image_size)

    def identify(self, settings: Florence2Settings) -> tuple[str, str]:
        files = open_folder(settings.checkpoint)
        return files.name, files.checked_digest(settings.hash or "")

    def memory(self, settings: Florence2Settings) -> int:
        # Peak while loading, measured: the stored and the converted weights, torch and the buffers of a batch.
        return PROCESS_BYTES + 2 * open_folder(settings.checkpoint).weight_bytes

    def open(self, settings: Florence2Settings, alive: Callable[[], None] = lambda: None) -> Engine:
        engine = self._open(settings, alive)
        if settings.hash is not None:  # again: the files may have changed between the hash and the reading of weights
            open_folder(settings.checkpoint).checked_digest(settings.hash)
        return engine

    def _open(self, settings: Florence2Settings, alive: Callable[[], None]) -> Engine:
        open_one = partial(open_engine, graphs=self._graphs, alive=alive)
        if settings.int8 == "off" or settings.openvino_device not in (None, "CPU"):
            return with_stages(open_one(settings))
        from pipelines.florence2.int8.opening import open_with_int8

        def open_changed(changes: dict[str, Any]) -> ReferenceEngine | FastEngine:
            return open_one(settings.model_copy(update=changes))

        _check_openvino(settings)
        checkpoint, is_auto = settings.checkpoint, settings.backend == "auto"
        return with_stages(open_with_int8(checkpoint, _files(settings), is_auto, open_changed))

    def quantize(
        self,
        settings: Florence2Settings,
        collect: Callable[[], tuple[Sequence[Job], Sequence[Job]]],
        floor: float,
        tell: Callable[[str], None],
    ) -> bool:
        from pipelines.florence2.int8.quantize import quantize

        def open_changed(changes: dict[str, Any]) -> ReferenceEngine | FastEngine:
            return open_engine(settings.model_copy(update=changes))

        def collect_prompts() -> tuple[Sequence[Job], Sequence[Job]]:
            # The stages of a job run as other tasks do, so these are compared.
            calibration, held_out = collect()
            return [caption_job(job) for job in calibration], [caption_job(job) for job in held_out]

        return quantize(settings.checkpoint, _files(settings), open_changed, collect_prompts, floor, tell)

    def compare(self, settings: Florence2Settings, seconds: float, tell: Callable[[str], None]) -> Mapping[str, Any]:
        from pipelines.florence2.speed.table import compare

        return compare(settings, seconds, tell)


def _check_openvino(settings: Florence2Settings) -> None:
    """Report a missing package before the checkpoint is downloaded."""
    if settings.openvino_device:
        from pipelines.florence2.openvino.library import openvino

        openvino()


def open_engine(
    settings: Florence2Settings,
    files: CheckpointFiles | None = None,
    graphs: Graphs | None = None,
    alive: Callable[[], None] = lambda: None,
) -> ReferenceEngine | FastEngine:
    """Load and warm up an engine whose jobs have one prompt each.

    `files` are those of the checkpoint where the caller changed them, `graphs` is as in `Florence2`, `alive` as in
    `streamer.types.Pipeline`.
    Raises ConfigError when the checkpoint or device cannot be used.
    """
    # Idle OpenMP threads must sleep: spinning next to other busy processes, they slow torch down many times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _check_openvino(settings)
    files = files or _files(settings)
    started = time.monotonic()
    _import_torch()
    with large_blocks_freed_at_once():
        engine = _build(settings, files, alive)
    engine.warm_up()
    _prove(engine, settings, files, graphs, alive)
    release_unused()
    log.info("loaded %s in %.1f s", files.name, time.monotonic() - started)
    return engine


def _import_torch() -> None:
    """Import torch without the garbage collector: it would look for garbage among half a million objects."""
    if "torch" not in sys.modules:
        gc.disable()
        try:
            import torch  # noqa: F401
        finally:
            gc.enable()
        gc.freeze()  # a full collection, which would look at them, takes 0.1 s


def _build(
    settings: Florence2Settings, files: CheckpointFiles, alive: Callable[[], None]
) -> ReferenceEngine | FastEngine:
    from pipelines.florence2.checkpoint import load
    from pipelines.florence2.fast.memory_budget import limit

    checkpoint = load(files, "cpu" if settings.openvino_device else settings.one_device, settings.dtype)
    limit(checkpoint.weights.device, settings.gpu_memory)
    if _needs_reference(checkpoint, settings):
        from pipelines.florence2.reference_engine import ReferenceEngine

        return ReferenceEngine(checkpoint, settings.max_batch)
    from pipelines.florence2.card import unused_card
    from pipelines.florence2.fast.engine import FastEngine

    if device := _openvino_device(settings, checkpoint):
        from pipelines.florence2.openvino import backend

        alive()
        prepared = backend.prepare(checkpoint, device)
        alive()
    engine = FastEngine(checkpoint, settings.max_batch, settings.drafts, settings.gpu_memory)
    if settings.one_device == "auto" and (reason := unused_card()):
        engine.degrade(f"the model runs on the CPU: {reason}")
    del checkpoint  # the engine has copies of its weights
    if device:
        backend.use_openvino(engine, device, prepared)
    return engine


def _prove(
    engine: ReferenceEngine | FastEngine,
    settings: Florence2Settings,
    files: CheckpointFiles,
    graphs: Graphs | None,
    alive: Callable[[], None],
) -> None:
    """Let a fast engine on a card prove that it works there, and use graphs."""
    from pipelines.florence2.fast.engine import FastEngine

    if not isinstance(engine, FastEngine):
        return
    device = engine.decoder.device
    is_card = device.type == "cuda"
    if graphs is None and is_card:
        from pipelines.florence2.fast.graphs import CudaGraphRunner

        graphs = partial(CudaGraphRunner, compiles=settings.graphs == "compiled")
    if graphs is not None:
        from pipelines.florence2.card import card_of
        from pipelines.florence2.fast.self_proof import prove
        from pipelines.florence2.fast.unfinished_starts import UnfinishedStarts

        identity = f"{device} {card_of(device)}", str(nvidia.driver_version()), version("torch")
        starts = UnfinishedStarts(cache_home() / "graphs", *identity)
        make_runner = None if settings.graphs == "off" else partial(graphs, device)
        prove(engine, make_runner, (lambda: load_parts(files)) if is_card else None, starts, alive)


def _openvino_device(settings: Florence2Settings, checkpoint: Checkpoint) -> str | None:
    """Return the device on which OpenVINO runs vision tower and text encoder; None: torch runs them.

    A small model gains nothing: OpenVINO needs longer to start than torch.
    """
    if settings.backend != "auto" or settings.openvino_device:
        return settings.openvino_device
    from pipelines.florence2.dtype import SMALL_MODEL

    is_large = checkpoint.architecture.parameters() >= SMALL_MODEL
    is_installed = find_spec("openvino") is not None
    return "CPU" if is_large and is_installed and checkpoint.weights.device.type == "cpu" else None


def load_parts(files: CheckpointFiles) -> tuple[DaViT, Encoder]:
    """Load vision tower and text encoder of a checkpoint in float32, as backends convert them."""
    from pipelines.florence2.checkpoint import load
    from pipelines.florence2.fast.davit import DaViT
    from pipelines.florence2.fast.encoder import Encoder

    opened = load(files, "cpu", "float32")
    weights, architecture, images = opened.weights, opened.architecture, opened.images
    return DaViT(weights, architecture.vision, images.height, images.width), Encoder(weights, architecture.text)


def _files(settings: Florence2Settings) -> CheckpointFiles:
    files = open_folder(settings.checkpoint)
    if settings.hash is not None:
        files = files.with_hash(settings.hash)
    return files.with_image_size(settings.image_size)


def _needs_reference(checkpoint: Checkpoint, settings: Florence2Settings) -> bool:
    if settings.engine == "plain":
        return True
    from pipelines.florence2.fast.layers import ACTIVATIONS

    architecture = checkpoint.architecture
    unknown = unsupported(checkpoint.files.generation)
    if not {architecture.text.activation_function, architecture.vision.activation_function} <= ACTIVATIONS.keys():
        unknown.append("activation_function")
    if unknown and (settings.engine == "fast" or settings.openvino_device):
        raise ConfigError(
            f"checkpoint {checkpoint.name} sets {', '.join(unknown)}, which the fast engine does not support: "
            "use `engine: plain` and `backend: torch`"
        )
    if unknown:
        log.warning("using the plain engine: the fast one does not support %s", ", ".join(unknown))
    return bool(unknown)


pipeline = Florence2()
