"""The vision tower (DaViT) and its projector in one memory layout, with norms and scales folded into the matrices.

Tokens keep the shape (frames, positions, channels) throughout; depthwise convolutions use the same memory as
channels-last images. The image size is fixed at construction.
"""

from __future__ import annotations

import math
from types import ModuleType

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.florence2.architecture import Vision
from pipelines.florence2.fast.layers import ACTIVATIONS, BARE, Linear, Norm, linear, norm
from pipelines.florence2.weights import Part, Weights

Kernels = ModuleType | None
"""The module `map_kernels` where a card has it, else None: plain operations."""


def _kernels_for(head: int, kernels: Kernels) -> Kernels:
    """Return the kernels if they know attention with heads of this width."""
    return kernels if head >= 16 and head & (head - 1) == 0 else None


class _Convolution:
    def __init__(self, part: Part, stride: int, padding: int) -> None:
        self.weight: Tensor = part.weight.contiguous(memory_format=torch.channels_last)
        self.bias: Tensor = part["bias"]
        self.stride, self.padding, self.groups = stride, padding, 1

    def __call__(self, x: Tensor, height: int, width: int) -> Tensor:
        """Convolve (frames, positions, channels) to (frames, height, width, channels)."""
        image = x.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        out = functional.conv2d(image, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        return out.permute(0, 2, 3, 1)


class _Depthwise(_Convolution):
    """A 3 x 3 convolution of each channel on its own that keeps the size."""

    def __init__(self, part: Part) -> None:
        super().__init__(part, 1, 1)
        self.groups = len(self.weight)


class _Entry:
    """The start of a block: a depthwise convolution with its residual, and the norm of the sum."""

    def __init__(self, part: Part, norm: Norm, last: Linear, kernels: Kernels) -> None:
        """`last` is the block's last matrix. With kernels, its bias moves into the sum that its product is added to."""
        self._depthwise, self._norm, self._kernels = _Depthwise(part), norm, kernels
        if kernels:
            self._taps = self._depthwise.weight.float().flatten(1).T.contiguous()
            self._taps[4] += 1  # the residual
            self._shift, last.bias = last.bias, None

    def __call__(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the sum, and its norm, both (frames, positions, channels)."""
        if self._kernels:
            summed, normed = self._kernels.depthwise_norm(
                x, self._taps, self._depthwise.bias, self._shift, *self._norm, height, width
            )
            return summed, normed
        x = self._depthwise(x, height, width).flatten(1, 2).add_(x)
        return x, self._norm(x)


def _sum(x: Tensor, matrix: Linear, y: Tensor) -> Tensor:
    """Return x + the product with y; x (frames, positions, channels) may be overwritten."""
    if matrix.bias is not None:
        return matrix(y).add_(x)
    return matrix.plus(y.flatten(0, 1), x.flatten(0, 1)).view(x.shape)


class _FeedForward:
    def __init__(self, block: Part, activation: str, kernels: Kernels) -> None:
        self.up = linear(block.at("ffn.fc1"), before=block.at("norm2"))
        self.down = linear(block.at("ffn.fc2"))
        self.entry = _Entry(block.at("conv2"), BARE, self.down, kernels)
        self.activation = ACTIVATIONS[activation]

    def __call__(self, x: Tensor, height: int, width: int) -> Tensor:
        x, y = self.entry(x, height, width)
        return _sum(x, self.down, self.up.activated(y, self.activation))


class _Windows:
    """Attention inside square windows of the feature map."""

    def __init__(self, block: Part, heads: int, side: int, height: int, width: int, kernels: Kernels) -> None:
        self.heads, self.side = heads, side
        self.right, self.bottom = -width % self.side, -height % self.side
        """Padding to whole windows, in positions. The model pads with zeros after the norm's weight and bias."""
        padded = bool(self.right or self.bottom)
        # With padding the zeros must stay zeros, so the norm cannot be folded into the matrix.
        self.qkv = linear(block.at("window_attn.qkv"), before=None if padded else block.at("norm1"))
        self.out = linear(block.at("window_attn.proj"))
        self.entry = _Entry(block.at("conv1"), norm(block.at("norm1")) if padded else BARE, self.out, kernels)
        self._kernels = None if padded else _kernels_for(len(self.out.weight) // heads, kernels)

    def __call__(self, x: Tensor, height: int, width: int) -> Tensor:
        x, y = self.entry(x, height, width)
        if self._kernels:
            return _sum(x, self.out, self._kernels.window_attention(self.qkv(y), self.heads, self.side, height, width))
        frames, _, channels = x.shape
        y = y.unflatten(1, (height, width))
        if self.right or self.bottom:
            y = functional.pad(y, (0, 0, 0, self.right, 0, self.bottom))
        rows, columns = y.shape[1] // self.side, y.shape[2] // self.side
        y = y.view(frames, rows, self.side, columns, self.side, channels).transpose(2, 3)
        y = y.reshape(-1, self.side * self.side, channels)
        q, k, v = self.qkv(y).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y = self.out(y).view(frames, rows, columns, self.side, self.side, channels).transpose(2, 3)
        if self.right or self.bottom:
            y = y.reshape(frames, rows * self.side, columns * self.side, channels)[:, :height, :width]
            return torch.add(x.unflatten(1, (height, width)), y).flatten(1, 2)
        # The sum reads the windows where they are: no copy back to rows of the feature map.
        return torch.add(x.view(y.shape), y).view(x.shape)


class _Channels:
    """Attention between channels, over all positions."""

    def __init__(self, block: Part, groups: int, channels: int, positions: int, kernels: Kernels) -> None:
        self.out = linear(block.at("channel_attn.proj"))
        self.entry = _Entry(block.at("conv1"), BARE, self.out, kernels)
        # The attention scale applies to the queries, the first third of the outputs.
        gain = torch.ones(3 * channels, device=self.out.weight.device)
        gain[:channels] = positions**-0.5
        self.qkv = linear(block.at("channel_attn.qkv"), gains=(gain,), before=block.at("norm1"))
        self.groups = groups
        self._kernels = _kernels_for(channels // groups, kernels)

    def __call__(self, x: Tensor, height: int, width: int) -> Tensor:
        x, y = self.entry(x, height, width)
        qkv = self.qkv(y)
        if self._kernels:
            return _sum(x, self.out, self._kernels.channel_attention(qkv, self.groups))
        parts = qkv.unflatten(-1, (3, self.groups, -1)).permute(2, 0, 3, 1, 4)
        # A batch of products has one stride, so several frames need this copy; without it each product makes its own.
        q, k, v = parts.flatten(1, 2).unbind(0)
        # torch computes the softmax of a bfloat16 tensor in float32, on CPUs and GPUs. OpenVINO does not convert `mT`.
        mix = torch.softmax(torch.bmm(q.transpose(1, 2), k), -1)
        y = torch.bmm(v, mix.transpose(1, 2)).unflatten(0, (len(x), -1)).transpose(1, 2).flatten(2)
        return _sum(x, self.out, y)


class _Stage:
    """A patch embedding and its blocks, at one size of the feature map."""

    def __init__(self, tower: Part, vision: Vision, stage: int, input_size: tuple[int, int], kernels: Kernels) -> None:
        """`input_size`: height and width of the stage's input."""
        kernel, stride, padding = vision.patch_size[stage], vision.patch_stride[stage], vision.patch_padding[stage]
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in input_size)
        patches = tower.at(f"convs.{stage}")
        self.norm, self.is_norm_first = norm(patches.at("norm")), vision.patch_prenorm[stage]
        self._kernels = kernels
        self.patches = _Convolution(patches.at("conv"), stride, padding)
        self.input_size = input_size
        self.size: tuple[int, int] = height, width
        self.blocks: list[_Windows | _FeedForward | _Channels] = []
        for depth in range(vision.depths[stage]):
            spatial, channel = (tower.at(f"blocks.{stage}.{depth}.{kind}_block") for kind in ("spatial", "channel"))
            self.blocks += [
                _Windows(spatial, vision.num_heads[stage], vision.window_size, height, width, kernels),
                _FeedForward(spatial, vision.activation_function, kernels),
                _Channels(channel, vision.num_groups[stage], vision.embed_dim[stage], height * width, kernels),
                _FeedForward(channel, vision.activation_function, kernels),
            ]

    def __call__(self, x: Tensor) -> Tensor:
        if self.is_norm_first:
            x = self._normed(x)
        x = self.patches(x, *self.input_size).flatten(1, 2)
        if not self.is_norm_first:
            x = self._normed(x)
        for block in self.blocks:
            x = block(x, *self.size)
        return x

    def _normed(self, x: Tensor) -> Tensor:
        return self._kernels.layer_norm(x, *self.norm) if self._kernels else self.norm(x)


class DaViT:
    """Image tokens from pixels; independent of the prompt."""

    def __init__(self, weights: Weights, vision: Vision, height: int, width: int, kernels: Kernels = None) -> None:
        """`kernels`: those of a card, from `usable_kernels`."""
        tower, projector = weights.at("model.vision_tower"), weights.at("model.multi_modal_projector")
        self.size, self.width = (height, width), vision.projection_dim
        self.dtype, self.device = weights.dtype, weights.device
        self._stages: list[_Stage] = []
        size = (height, width)
        for stage in range(len(vision.depths)):
            self._stages.append(_Stage(tower, vision, stage, size, kernels))
            size = self._stages[-1].size
        self._positions = _position_embedding(projector, size)
        self._projection = Linear(projector["image_projection.weight"])
        self._norm = norm(projector.at("image_proj_norm"))

    @property
    def tokens(self) -> int:
        """Image tokens per frame."""
        return len(self._positions) + 1

    @property
    def peak(self) -> int:
        """Estimate of the most numbers in memory at once for one frame: a feed-forward on the largest feature map."""
        return max(6 * math.prod(stage.size) * len(stage.patches.bias) for stage in self._stages)

    def __call__(self, pixels: Tensor) -> Tensor:
        """Return image tokens (frames, tokens, width), mean token first, of `pixels` (frames, 3, height, width)."""
        x = pixels.permute(0, 2, 3, 1).flatten(1, 2)
        for stage in self._stages:
            x = stage(x)
        x = x + self._positions
        x = torch.cat([x.mean(1, keepdim=True), x], 1)
        return self._norm(self._projection(x))


def _position_embedding(projector: Part, size: tuple[int, int]) -> Tensor:
    """Return what the projector adds to each position of the last feature map: (positions, channels)."""
    height, width = size
    embedding = projector.at("image_position_embed")
    rows = embedding["row_embeddings.weight"][:height, None].expand(-1, width, -1)
    columns = embedding["column_embeddings.weight"][None, :width].expand(height, -1, -1)
    time = projector["visual_temporal_embed.pos_idx_to_embed"][0]
    return torch.cat([columns, rows], -1).flatten(0, 1).add_(time)
