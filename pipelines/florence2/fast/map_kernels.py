"""Kernels of the vision tower for graphics cards, in Triton, which torch for CUDA contains.

Eager operations on feature maps are bound by the memory of a card: each reads and writes a whole map. Each kernel here
stands for several of them. Sums are in float32, and results are rounded once.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pipelines.florence2.fast.layers import EPS

TILE, WARPS = 4096, 4
"""Numbers of the feature map that a program of `depthwise_norm` or `layer_norm` computes, and its warps."""
QUERIES, WINDOW_WARPS = 64, 4
"""Queries that a program of `window_attention` computes at once, and its warps."""
SPLITS = 16
"""Programs that share the positions of a product of channels."""
BLOCK = 128
"""Positions that a program of channel attention loads at once."""
MIXED = 1024
"""Positions that a program of channel attention writes."""
_LOG2_E = math.log2(math.e)


@torch.library.custom_op("streamer::depthwise_norm", mutates_args=())
def depthwise_norm(
    x: Tensor,
    taps: Tensor,
    bias: Tensor,
    shift: Tensor,
    gain: Tensor | None,
    offset: Tensor | None,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Convolve each channel of `x` (frames, positions, channels) with 3 x 3 numbers.

    `taps` (9, channels), float32, are those numbers, with 1 added to the middle one for a residual. `bias` is added to
    the sum. Return the sum plus `shift`, and the layer norm of the sum with `gain` and `offset`.
    """
    x = x.contiguous()
    frames, _, channels = x.shape
    summed, normed = torch.empty_like(x), torch.empty_like(x)
    block_c = triton.next_power_of_2(channels)
    block_x = max(1, min(TILE // block_c, triton.next_power_of_2(width)))
    grid = (frames * height * triton.cdiv(width, block_x),)
    has_affine = gain is not None
    _depthwise_norm[grid](
        x, taps, bias, shift, gain if has_affine else bias, offset if has_affine else bias, summed, normed,
        height, width, channels, EPS, has_affine, block_x, block_c, num_warps=WARPS,
    )  # fmt: skip
    return summed, normed


@depthwise_norm.register_fake
def _(x: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(x)


@triton.jit
def _norm(values, gain, offset, channel, is_channel, channels, eps, HAS_AFFINE: tl.constexpr):
    centred = tl.where(is_channel[None, :], values - (tl.sum(values, 1) / channels)[:, None], 0.0)
    norm = centred * tl.rsqrt(tl.sum(centred * centred, 1) / channels + eps)[:, None]
    if HAS_AFFINE:
        norm = norm * tl.load(gain + channel, is_channel, 0.0).to(tl.float32)[None, :]
        norm += tl.load(offset + channel, is_channel, 0.0).to(tl.float32)[None, :]
    return norm


@triton.jit
def _depthwise_norm(
    x, taps, bias, shift, gain, offset, summed, normed, height, width, channels, eps,
    HAS_AFFINE: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(width, BLOCK_X)
    line = tl.program_id(0) // tiles
    row = line % height
    columns = (tl.program_id(0) % tiles) * BLOCK_X + tl.arange(0, BLOCK_X)
    channel = tl.arange(0, BLOCK_C)
    is_channel = channel < channels
    total = tl.zeros((BLOCK_X, BLOCK_C), tl.float32) + tl.load(bias + channel, is_channel, 0.0).to(tl.float32)[None, :]
    for tap in tl.static_range(9):
        down, right = tap // 3 - 1, tap % 3 - 1
        at = columns + right
        is_inside = (row + down >= 0) & (row + down < height) & (at >= 0) & (at < width)
        place = ((line + down) * width + at)[:, None] * channels + channel[None, :]
        values = tl.load(x + place, is_inside[:, None] & is_channel[None, :], 0.0).to(tl.float32)
        total += values * tl.load(taps + tap * channels + channel, is_channel, 0.0)[None, :]
    norm = _norm(total, gain, offset, channel, is_channel, channels, eps, HAS_AFFINE)
    total += tl.load(shift + channel, is_channel, 0.0).to(tl.float32)[None, :]
    place = (line * width + columns)[:, None] * channels + channel[None, :]
    mask = (columns < width)[:, None] & is_channel[None, :]
    tl.store(summed + place, total.to(summed.dtype.element_ty), mask)
    tl.store(normed + place, norm.to(normed.dtype.element_ty), mask)


@torch.library.custom_op("streamer::layer_norm", mutates_args=())
def layer_norm(x: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """Return the layer norm of `x` (frames, positions, channels); torch's kernel is slow for few channels."""
    x = x.contiguous()
    out, channels = torch.empty_like(x), x.shape[-1]
    rows = x.numel() // channels
    block_c = triton.next_power_of_2(channels)
    block_rows = max(1, TILE // block_c)
    grid = (triton.cdiv(rows, block_rows),)
    _layer_norm[grid](x, gain, offset, out, rows, channels, EPS, block_rows, block_c, num_warps=WARPS)
    return out


@layer_norm.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


@triton.jit
def _layer_norm(
    x, gain, offset, out, rows, channels, eps, BLOCK_ROWS: tl.constexpr, BLOCK_C: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.arange(0, BLOCK_C)
    is_channel = channel < channels
    mask = (row < rows)[:, None] & is_channel[None, :]
    place = row[:, None] * channels + channel[None, :]
    values = tl.load(x + place, mask, 0.0).to(tl.float32)
    norm = _norm(values, gain, offset, channel, is_channel, channels, eps, True)
    tl.store(out + place, norm.to(out.dtype.element_ty), mask)


@torch.library.custom_op("streamer::window_attention", mutates_args=())
def window_attention(qkv: Tensor, heads: int, side: int, height: int, width: int) -> Tensor:
    """Return attention inside windows of `side` x `side` positions, which must fill the feature map.

    `qkv` (frames, positions, 3 * channels) are queries, keys and values; the result is (frames, positions, channels).
    """
    frames, positions, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    out = qkv.new_empty(frames, positions, channels)
    inside = side * side
    first = min(128, triton.next_power_of_2(inside))
    rest = max(16, triton.next_power_of_2(inside - first)) if inside > first else 0
    windows = frames * (height // side) * (width // side)
    _window_attention[(windows * heads,)](
        qkv, out, height, width, (channels // heads) ** -0.5 * _LOG2_E,
        heads, side, channels // heads, first, rest, QUERIES, num_warps=WINDOW_WARPS,
    )  # fmt: skip
    return out


@window_attention.register_fake
def _(qkv: Tensor, *_: object) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@triton.jit
def _places(number, origin, width, SIDE: tl.constexpr):
    return origin + (number // SIDE) * width + number % SIDE


@triton.jit
def _window_attention(
    qkv, out, height, width, scale,
    HEADS: tl.constexpr, SIDE: tl.constexpr, WIDTH: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
    QUERIES: tl.constexpr,
):  # fmt: skip
    head, window = tl.program_id(0) % HEADS, tl.program_id(0) // HEADS
    across = width // SIDE
    per_frame = (height // SIDE) * across
    inside = window % per_frame
    origin = (window // per_frame) * height * width + (inside // across) * SIDE * width + (inside % across) * SIDE
    stride = 3 * HEADS * WIDTH
    number = tl.arange(0, WIDTH)[None, :]
    base = qkv + head * WIDTH
    key = tl.arange(0, FIRST)
    place = _places(key, origin, width, SIDE)[:, None] * stride + number
    is_key = key < SIDE * SIDE
    keys = tl.load(base + HEADS * WIDTH + place, is_key[:, None], 0.0)
    values = tl.load(base + 2 * HEADS * WIDTH + place, is_key[:, None], 0.0)
    if REST > 0:
        more = FIRST + tl.arange(0, REST)
        place = _places(more, origin, width, SIDE)[:, None] * stride + number
        is_more = more < SIDE * SIDE
        more_keys = tl.load(base + HEADS * WIDTH + place, is_more[:, None], 0.0)
        more_values = tl.load(base + 2 * HEADS * WIDTH + place, is_more[:, None], 0.0)
    for start in tl.static_range(0, SIDE * SIDE, QUERIES):
        query = start + tl.arange(0, QUERIES)
        is_query = (query < SIDE * SIDE)[:, None]
        place = _places(query, origin, width, SIDE)[:, None]
        queries = tl.load(base + place * stride + number, is_query, 0.0)
        scores = tl.dot(queries, tl.trans(keys)) * scale
        scores = tl.where(is_key[None, :], scores, float("-inf"))
        best = tl.max(scores, 1)
        if REST > 0:
            more_scores = tl.dot(queries, tl.trans(more_keys)) * scale
            more_scores = tl.where(is_more[None, :], more_scores, float("-inf"))
            best = tl.maximum(best, tl.max(more_scores, 1))
        weights = tl.exp2(scores - best[:, None])
        total = tl.sum(weights, 1)
        found = tl.dot(weights.to(values.dtype), values)
        if REST > 0:
            weights = tl.exp2(more_scores - best[:, None])
            total += tl.sum(weights, 1)
            found += tl.dot(weights.to(values.dtype), more_values)
        found = found / total[:, None]
        tl.store(out + place * (HEADS * WIDTH) + head * WIDTH + number, found.to(out.dtype.element_ty), is_query)


@torch.library.custom_op("streamer::channel_attention", mutates_args=())
def channel_attention(qkv: Tensor, groups: int) -> Tensor:
    """Return attention between the channels of each group, over all positions; queries are scaled already.

    `qkv` (frames, positions, 3 * channels) are queries, keys and values; the result is (frames, positions, channels).
    """
    frames, positions, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    width = channels // groups
    partial = qkv.new_empty(frames * groups, SPLITS, width, width, dtype=torch.float32)
    out = qkv.new_empty(frames, positions, channels)
    share = triton.cdiv(positions, SPLITS)
    _channel_scores[(frames * groups, SPLITS)](qkv, partial, positions, groups, width, share, BLOCK, num_warps=4)
    grid = (frames * groups, triton.cdiv(positions, MIXED))
    _channel_mix[grid](qkv, partial, out, positions, groups, width, SPLITS, BLOCK, MIXED, num_warps=4)
    return out


@channel_attention.register_fake
def _(qkv: Tensor, _: int) -> Tensor:
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)


@triton.jit
def _channel_scores(
    qkv, partial, positions, GROUPS: tl.constexpr, WIDTH: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr
):
    frame, group = tl.program_id(0) // GROUPS, tl.program_id(0) % GROUPS
    channel = tl.arange(0, WIDTH)
    base = qkv + frame.to(tl.int64) * positions * (3 * GROUPS * WIDTH) + group * WIDTH + channel[None, :]
    first = tl.program_id(1) * SHARE
    total = tl.zeros((WIDTH, WIDTH), tl.float32)
    for start in range(0, SHARE, BLOCK):
        inside = start + tl.arange(0, BLOCK)
        position = first + inside
        is_inside = ((inside < SHARE) & (position < positions))[:, None]
        place = position[:, None] * (3 * GROUPS * WIDTH)
        queries = tl.load(base + place, is_inside, 0.0)
        keys = tl.load(base + GROUPS * WIDTH + place, is_inside, 0.0)
        total += tl.dot(tl.trans(queries), keys)
    out = partial + (tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)) * (WIDTH * WIDTH)
    tl.store(out + channel[:, None] * WIDTH + channel[None, :], total)


@triton.jit
def _channel_mix(
    qkv, partial, out, positions,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK: tl.constexpr, MIXED: tl.constexpr,
):  # fmt: skip
    frame, group = tl.program_id(0) // GROUPS, tl.program_id(0) % GROUPS
    channel = tl.arange(0, WIDTH)
    table = partial + tl.program_id(0) * (SPLITS * WIDTH * WIDTH) + channel[:, None] * WIDTH + channel[None, :]
    scores = tl.zeros((WIDTH, WIDTH), tl.float32)
    for split in range(SPLITS):
        scores += tl.load(table + split * (WIDTH * WIDTH))
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    weights = weights / tl.sum(weights, 1)[:, None]
    mix = tl.trans(weights).to(out.dtype.element_ty)
    first = frame.to(tl.int64) * positions
    for start in range(0, MIXED, BLOCK):
        position = tl.program_id(1) * MIXED + start + tl.arange(0, BLOCK)
        is_inside = (position < positions)[:, None]
        place = first + position[:, None]
        column = group * WIDTH + channel[None, :]
        values = tl.load(qkv + place * (3 * GROUPS * WIDTH) + 2 * GROUPS * WIDTH + column, is_inside, 0.0)
        tl.store(out + place * (GROUPS * WIDTH) + column, tl.dot(values, mix).to(out.dtype.element_ty), is_inside)
