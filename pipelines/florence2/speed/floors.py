"""Lowest possible time of a model's work: its operations and bytes over the peak figures of a card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.florence2.architecture import Architecture, Vision


@dataclass(frozen=True, slots=True)
class Peak:
    """Peak figures of a card in its data sheet."""

    flops: float
    """bfloat16 operations per second with float32 sums, without sparsity."""
    bandwidth: float
    """Bytes of its memory that it reads per second."""


PEAKS = {
    "NVIDIA B200": Peak(2250e12, 8.0e12),
    "NVIDIA H200": Peak(989e12, 4.8e12),
    "NVIDIA H100 80GB HBM3": Peak(989e12, 3.35e12),
    "NVIDIA H100 PCIe": Peak(756e12, 2.0e12),
    "NVIDIA A100-SXM4-80GB": Peak(312e12, 2.039e12),
    "NVIDIA A100 80GB PCIe": Peak(312e12, 1.935e12),
    "NVIDIA A100-SXM4-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A100-PCIE-40GB": Peak(312e12, 1.555e12),
    "NVIDIA A30": Peak(165e12, 0.933e12),
    "NVIDIA A10": Peak(125e12, 0.6e12),
    "NVIDIA A40": Peak(149.7e12, 0.696e12),
    "NVIDIA L4": Peak(121e12, 0.3e12),
    "NVIDIA L40S": Peak(362e12, 0.864e12),
    "NVIDIA GeForce RTX 4090": Peak(165.2e12, 1.008e12),
    "NVIDIA GeForce RTX 3090": Peak(71e12, 0.936e12),
}
"""Peak figures by the name that the driver gives a card. A card that is missing here has no floors."""
ITEM = 2
"""Bytes of a number in bfloat16."""


@dataclass(frozen=True, slots=True)
class Work:
    """Cost of the answers about a frame: one pass of the vision tower, and one encoder row per answer."""

    vision: float
    """Operations per frame."""
    encoder: float
    """Operations per answer, the keys and values of the cross attention included."""
    token: float
    """Operations per token."""
    step_bytes: float
    """Bytes of the matrices that every step reads, whatever its number of rows."""
    row_bytes: float
    """Bytes that a step reads for one row: keys and values of its prompt, and half of those of its answer."""

    def seconds(self, peak: Peak, tokens: Sequence[int], frames: int) -> float:
        """Return the floor in seconds of `frames` frames that run together, with an answer per entry of `tokens` each.

        Vision tower and encoder are limited by operations; a step by the larger of its operations and its bytes.
        """
        start = frames * (self.vision + len(tokens) * self.encoder) / peak.flops
        steps = 0.0
        for step in range(max(tokens)):
            rows = frames * sum(step < count for count in tokens)
            read = (self.step_bytes + rows * self.row_bytes) / peak.bandwidth
            steps += max(read, rows * self.token / peak.flops)
        return start + steps


def work(architecture: Architecture, height: int, width: int, prompt: int, answer: int) -> Work:
    """Count the work of a model on pictures of this size, with prompts and answers of so many tokens.

    One multiplication and its addition are two operations.
    """
    text = architecture.text
    vision, image_tokens = _vision(architecture.vision, height, width)
    d, positions, layers = text.d_model, image_tokens + prompt, text.decoder_layers
    encoder_layer = 2 * positions * (4 * d * d + 2 * d * text.encoder_ffn_dim) + 4 * positions * positions * d
    cross = layers * 2 * positions * 2 * d * d
    # qkv and out, query and out of the cross attention, feed-forward
    layer = 6 * d * d + 2 * d * text.decoder_ffn_dim
    head = d * text.vocab_size
    attention = 4 * layers * (positions + answer / 2) * d
    return Work(
        vision=vision,
        encoder=text.encoder_layers * encoder_layer + cross,
        token=2 * (layers * layer + head) + attention,
        step_bytes=ITEM * (layers * layer + head),
        row_bytes=ITEM * 2 * layers * d * (positions + answer / 2),
    )


def _vision(vision: Vision, height: int, width: int) -> tuple[float, int]:
    """Return the operations of the vision tower with its projector, and the image tokens."""
    total, before = 0.0, vision.in_channels
    for stage, channels in enumerate(vision.embed_dim):
        side, stride, padding = vision.patch_size[stage], vision.patch_stride[stage], vision.patch_padding[stage]
        height, width = ((size + 2 * padding - side) // stride + 1 for size in (height, width))
        cells = height * width
        total += 2 * cells * side * side * before * channels
        inner = int(channels * vision.mlp_ratio)
        # Both blocks have two depthwise convolutions, four projections and a feed-forward part.
        half = 2 * cells * (2 * 9 * channels + 4 * channels * channels + 2 * channels * inner)
        padded = _padded(height, vision.window_size) * _padded(width, vision.window_size)
        spatial = 4 * padded * vision.window_size**2 * channels
        channel = 4 * cells * channels * channels // vision.num_groups[stage]
        total += vision.depths[stage] * (2 * half + spatial + channel)
        before = channels
    tokens = height * width + 1  # the mean of all cells is one more token
    return total + 2 * tokens * before * vision.projection_dim, tokens


def _padded(size: int, window: int) -> int:
    """Return `size` rounded up to whole windows."""
    return -(-size // window) * window
