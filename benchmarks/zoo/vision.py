"""Convolutional and recurrent networks of the zoo, written in plain torch."""

from __future__ import annotations

import torch
from entry import Entry, Inputs, noise, tokens
from torch import Tensor, nn
from torch.nn import functional as F


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution without bias and its batch normalization."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Bottleneck(nn.Module):
    """ResNet's block of three convolutions and a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = 4 * width
        self.body = nn.Sequential(
            conv(inputs, width, 1), nn.ReLU(), conv(width, width, 3, stride), nn.ReLU(), conv(width, outputs, 1)
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet of bottlenecks, narrow."""

    def __init__(self, width: int = 16, blocks: tuple[int, ...] = (2, 2, 2, 2), classes: int = 100):
        super().__init__()
        self.stem = nn.Sequential(conv(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        layers: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(blocks):
            for block in range(count):
                stride = 2 if stage and not block else 1
                layers.append(Bottleneck(channels, width << stage, stride))
                channels = 4 * (width << stage)
        self.layers = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.flatten(self.pool(self.layers(self.stem(x))), 1))


class SqueezeExcite(nn.Module):
    """Scales channels by a gate computed from their means."""

    def __init__(self, channels: int, reduced: int, inner: nn.Module, gate: nn.Module):
        super().__init__()
        self.squeeze = nn.AdaptiveAvgPool2d(1)
        self.down = nn.Conv2d(channels, reduced, 1)
        self.up = nn.Conv2d(reduced, channels, 1)
        self.inner, self.gate = inner, gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.up(self.inner(self.down(self.squeeze(x)))))


class InvertedResidual(nn.Module):
    """MobileNet's and EfficientNet's block: expand, convolve by channel, gate, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, act: nn.Module, gate: nn.Module):
        super().__init__()
        width = 4 * inputs
        self.body = nn.Sequential(
            conv(inputs, width, 1),
            act,
            conv(width, width, kernel, stride, width),
            act,
            SqueezeExcite(width, max(8, width // 4), nn.ReLU() if isinstance(gate, nn.Hardsigmoid) else act, gate),
            conv(width, outputs, 1),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


def mobile_network(act: nn.Module, gate: nn.Module) -> nn.Module:
    """A network of inverted residuals with the given activation and gate."""
    plan = ((16, 16, 3, 1), (16, 24, 3, 2), (24, 24, 3, 1), (24, 40, 5, 2), (40, 40, 5, 1), (40, 64, 3, 2))
    return nn.Sequential(
        conv(3, 16, 3, 2),
        act,
        *(InvertedResidual(i, o, k, s, act, gate) for i, o, k, s in plan),
        conv(64, 192, 1),
        act,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(192, 128),
        act,
        nn.Dropout(0.1),
        nn.Linear(128, 100),
    )


class DoubleConv(nn.Sequential):
    """Two convolutions of a U-Net."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(conv(inputs, outputs), nn.ReLU(), conv(outputs, outputs), nn.ReLU())


class UNet(nn.Module):
    """A U-Net that takes images of any side: what was rounded off going down is padded going up."""

    def __init__(self, width: int = 16, bilinear: bool = False):
        super().__init__()
        self.bilinear = bilinear
        sizes = [width << level for level in range(4)]
        self.first = DoubleConv(3, width)
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.up = nn.ModuleList(
            nn.Conv2d(b, a, 1) if bilinear else nn.ConvTranspose2d(b, a, 2, 2)
            for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.merge = nn.ModuleList(DoubleConv(2 * a, a) for a in sizes[:-1])
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.first(x)]
        for down in self.down:
            skips.append(down(F.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for level in reversed(range(len(skips))):
            skip = skips[level]
            if self.bilinear:
                x = self.up[level](F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False))
            else:
                x = self.up[level](x)
                rows, columns = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
                x = F.pad(x, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])
            x = self.merge[level](torch.cat([skip, x], 1))
        return self.last(x)


class CrossAttention(nn.Module):
    """Attention of an image's positions to a text, written out as diffusion models write it."""

    def __init__(self, channels: int, context: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(context, channels, bias=False)
        self.value = nn.Linear(context, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def split(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        x = x.reshape(batch, length, self.heads, channels // self.heads).permute(0, 2, 1, 3)
        return x.reshape(batch * self.heads, length, channels // self.heads)

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        y = self.norm(x)
        source = y if context is None else context
        query, key, value = self.split(self.query(y)), self.split(self.key(source)), self.split(self.value(source))
        scores = torch.bmm(query, key.transpose(1, 2)) * (query.shape[-1] ** -0.5)
        mixed = torch.bmm(scores.softmax(-1), value)
        batch, length, channels = x.shape
        mixed = mixed.reshape(batch, self.heads, length, channels // self.heads).permute(0, 2, 1, 3)
        return x + self.out(mixed.reshape(batch, length, channels))


class GatedFeedForward(nn.Module):
    """GEGLU between two linear layers."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 8 * channels)
        self.down = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(self.norm(x)).chunk(2, dim=-1)
        return x + self.down(value * F.gelu(gate))


class TimedResidual(nn.Module):
    """Group normalizations, SiLU and convolutions with the time's embedding added between them."""

    def __init__(self, inputs: int, outputs: int, time: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(time, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(8, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(time))[:, :, None, None]
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class SpatialTransformer(nn.Module):
    """Self-attention, cross-attention and a gated feed-forward over an image's positions."""

    def __init__(self, channels: int, context: int):
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.into, self.out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.own, self.cross = CrossAttention(channels, channels), CrossAttention(channels, context)
        self.feed = GatedFeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = self.into(self.norm(x)).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        y = self.feed(self.cross(self.own(y, None), context))
        return x + self.out(y.reshape(batch, height, width, channels).permute(0, 3, 1, 2))


class DiffusionUNet(nn.Module):
    """A small denoising U-Net: time embedding, cross-attention, one level down and up."""

    def __init__(self, width: int = 32, context: int = 64):
        super().__init__()
        time = 4 * width
        self.width = width
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        self.first = nn.Conv2d(4, width, 3, padding=1)
        self.down1, self.attend1 = TimedResidual(width, width, time), SpatialTransformer(width, context)
        self.down = nn.Conv2d(width, width, 3, 2, 1)
        self.down2, self.attend2 = TimedResidual(width, 2 * width, time), SpatialTransformer(2 * width, context)
        self.up = nn.Conv2d(2 * width, 2 * width, 3, padding=1)
        self.up1, self.attend3 = TimedResidual(3 * width, width, time), SpatialTransformer(width, context)
        self.norm, self.last = nn.GroupNorm(8, width), nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, context: Tensor) -> Tensor:
        half = self.width // 2
        rates = torch.exp(-9.21 * torch.arange(half, dtype=torch.float32) / half)
        angles = timestep[:, None].float() * rates[None, :]
        time = self.time(torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1))
        first = self.attend1(self.down1(self.first(sample), time), context)
        deep = self.attend2(self.down2(self.down(first), time), context)
        up = self.up(F.interpolate(deep, scale_factor=2.0, mode="nearest"))
        merged = self.attend3(self.up1(torch.cat([up, first], 1), time), context)
        return self.last(F.silu(self.norm(merged)))


class SuperResolution(nn.Module):
    """Convolutions with PReLU and a pixel shuffle."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 5, padding=2),
            nn.PReLU(width),
            *(layer for _ in range(3) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width))),
            nn.Conv2d(width, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(self.body(x) + F.interpolate(x, scale_factor=2.0, mode="nearest"), 0.0, 1.0)


class Focus(nn.Module):
    """A detector in YOLO's manner: strided slices, SiLU, concatenation, pooling pyramid, decoded boxes."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.first = nn.Sequential(conv(12, width), nn.SiLU())
        self.left, self.right = conv(width, width, 1), conv(width, width, 1)
        self.inner = nn.Sequential(conv(width, width), nn.SiLU(), conv(width, width), nn.SiLU())
        self.join = nn.Sequential(conv(2 * width, 2 * width, 3, 2), nn.SiLU())
        self.reduce = conv(2 * width, width, 1)
        self.spread = nn.Sequential(conv(4 * width, 2 * width, 1), nn.SiLU())
        self.head = nn.Conv2d(2 * width, 3 * 9, 1)
        self.register_buffer("anchors", torch.tensor([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]).view(1, 3, 1, 1, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        x = self.first(x)
        x = self.join(torch.cat([self.inner(F.silu(self.left(x))), F.silu(self.right(x))], 1))
        x = F.silu(self.reduce(x))
        pools = [x]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        x = self.head(self.spread(torch.cat(pools, 1)))
        batch, _, rows, columns = x.shape
        x = x.view(batch, 3, 9, rows, columns).permute(0, 1, 3, 4, 2).contiguous().sigmoid()
        across, down = torch.arange(columns), torch.arange(rows)
        grid = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], 2).view(1, 1, rows, columns, 2).float()
        centre = (x[..., 0:2] * 2.0 - 0.5 + grid) * 4.0
        size = (x[..., 2:4] * 2.0) ** 2 * self.anchors
        return torch.cat([centre, size, x[..., 4:]], -1).view(batch, -1, 9)


class Recurrent(nn.Module):
    """Embeddings, a bidirectional recurrent stack and a classifier on its mean and last state."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 64):
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        self.rnn = kind(width, width, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(4 * width, 10)

    def forward(self, ids: Tensor) -> Tensor:
        out, _ = self.rnn(self.embed(ids))
        return F.log_softmax(self.head(torch.cat([out.mean(1), out[:, -1]], 1)), dim=-1)


class TinyTransformer(nn.Module):
    """torch's own encoder and decoder layers."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.embed = nn.Embedding(1000, width)
        self.model = nn.Transformer(width, 4, 2, 2, 4 * width, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Linear(width, 1000)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = torch.full((target.shape[1], target.shape[1]), float("-inf")).triu(1)
        return self.head(self.model(self.embed(source), self.embed(target), tgt_mask=mask))


def image(batch: int, side: int) -> Inputs:
    return {"image": noise(batch, 3, side, side)}


def odd_image(batch: int, side: int) -> Inputs:
    return {"image": noise(batch, 3, side, side + 6)}


def latent(batch: int, side: int) -> Inputs:
    step = torch.arange(1, batch + 1, dtype=torch.int64) * 37
    return {"sample": noise(batch, 4, side, side), "timestep": step, "context": noise(batch, side // 2 + 3, 64)}


BATCH = {"image": {0: "batch"}}
SPACE = {"image": {0: "batch", 2: "height", 3: "width"}}
LATENT = {
    "sample": {0: "batch", 2: "height", 3: "width"},
    "timestep": {0: "batch"},
    "context": {0: "batch", 1: "words"},
}
IDS = {"ids": {0: "batch", 1: "sequence"}}
PAIR = {"source": {0: "batch", 1: "sequence"}, "target": {0: "batch", 1: "target_sequence"}}


def ids(batch: int, size: int) -> Inputs:
    return {"ids": tokens(batch, size)}


def pair(batch: int, size: int) -> Inputs:
    return {"source": tokens(batch, size), "target": tokens(batch, size // 2)}


def entries() -> list[Entry]:
    """The convolutional and recurrent models, most common first."""
    swish, sigmoid = nn.SiLU(), nn.Sigmoid()
    hard, hard_gate = nn.Hardswish(), nn.Hardsigmoid()
    return [
        Entry("resnet", ResNet, image, ("logits",), BATCH, (96, 64), resize=False),
        Entry("unet", UNet, odd_image, ("mask",), SPACE, (64, 82)),
        Entry("mobilenetv3", lambda: mobile_network(hard, hard_gate), image, ("logits",), BATCH, (96, 64), False),
        Entry("efficientnet", lambda: mobile_network(swish, sigmoid), image, ("logits",), BATCH, (96, 64), False),
        Entry("lstm", lambda: Recurrent(nn.LSTM), ids, ("scores",), IDS),
        Entry("gru", lambda: Recurrent(nn.GRU), ids, ("scores",), IDS),
        Entry("diffusion-unet", DiffusionUNet, latent, ("noise",), LATENT, (16, 24)),
        Entry("yolo", Focus, image, ("boxes",), SPACE, (96, 128)),
        Entry("unet-bilinear", lambda: UNet(bilinear=True), odd_image, ("mask",), SPACE, (64, 82)),
        Entry("superres", SuperResolution, image, ("image_out",), SPACE, (32, 40)),
        Entry("torch-transformer", TinyTransformer, pair, ("logits",), PAIR),
    ]
