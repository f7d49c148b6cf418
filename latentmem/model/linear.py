"""A frozen matrix, and the forms in which a CPU multiplies with it quickly."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128  # inputs that are turned together
LEVELS = 127  # a number becomes one of -127 .. 127 times its row's scale


class Linear:
    """A frozen matrix [out, in] with an optional bias [out], and at most one faster form for a CPU.

    `pack`: with few rows, a float32 product spends its time on reading the matrix, and torch's
    kernel for such shapes is slow. FBGEMM multiplies float32 rows with a packed float16 matrix: it
    reads half as much and computes in float32 (1.6 against 3.5 ms for 8 x 896 x 4864 on one core
    with AVX2). Only a matrix that fits float16 is packed. One from bfloat16 does: its 8 bits of
    mantissa are exact down to 6e-5, and below that the error is under 3e-8.

    `round`: products in 8-bit integers, on a chip that has them; see Int8Linear. Never under
    autograd: rounding hardly changes what is sampled, but its errors grow along a gradient. A soft
    prompt's gradient through rounded products had a cosine of 0.99 to the exact one with
    qwen2.5-coder-0.5b, but of -0.3 to 0.6 with smollm2-135m.
    """

    FEW = 64  # rows up to which the packed form is faster
    ERROR, HIGHEST = 3e-8, 65504.0

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self._packed = None
        self._int8: Int8Linear | None = None

    def pack(self, *, short: bool = False) -> None:
        """Make the float16 form, where torch has FBGEMM. It takes half the memory of the matrix.

        `short`: the values come from bfloat16 or float16, so only their size is checked.
        """
        w = self.weight
        if w.dtype != torch.float32 or w.device.type != "cpu" or not _has_fbgemm():
            return
        low, high = (float(v) for v in torch.aminmax(w))
        lost = (float((part - part.half().float()).abs().max()) for part in w.split(4096))
        if max(-low, high) <= self.HIGHEST and (short or all(one <= self.ERROR for one in lost)):
            self._packed = torch.ops.quantized.linear_prepack_fp16(w, self.bias)

    def round(self) -> None:
        """Multiply in 8-bit integers from now on, except under autograd."""
        self._int8 = Int8Linear(self.weight, self.bias)

    @property
    def read(self) -> int:
        """Bytes that a product of a few rows reads, without a gradient."""
        if self._int8 is not None:
            return self.weight.numel()
        return self.weight.nbytes if self._packed is None else 2 * self.weight.numel()

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out]"""
        if not torch.is_grad_enabled():
            if self._int8 is not None:
                return self._int8(x)
            if self._packed is not None and x.numel() <= self.FEW * x.shape[-1]:
                return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)
        return F.linear(x, self.weight, self.bias)


class Int8Linear:
    """x @ weight.T + bias for a frozen weight [out, in], computed in 8-bit integers.

    First an orthogonal Hadamard matrix H turns every BLOCK inputs: x W^T = (x H)(W H)^T. In exact
    arithmetic that changes nothing, and it spreads the few very large inputs of a language model
    over their block, as QuaRot does (arXiv 2404.00456). Then each row of W H and of x H is rounded
    to 255 levels on its own scale. The sums are exact in 32 bits. Over 2,154 sampled tokens of the
    default model, a product is off by about 1 % (5 % in `down` without turning), the next word's
    distribution by 3.9e-4 nats on average, and the likeliest word is the same in 99.4 % of places.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias = None if bias is None else bias.float()
        self.turn = hadamard(block_of(weight.shape[1]))
        scales, levels = [], []
        for part in weight.split(8192):  # in parts: the whole head, turned, is half a gigabyte
            turned = turn(part.float(), self.turn)
            scales.append(turned.abs().amax(1).clamp_(min=1e-12) / LEVELS)
            levels.append(turned.div_(scales[-1][:, None]).round_().to(torch.int8))
        self.scale, rounded = torch.cat(scales).div_(LEVELS), torch.cat(levels)  # [out], [out, in]
        self._zero = torch.zeros(len(rounded), dtype=torch.int32)
        self._packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out], of the type of x"""
        t = turn(x.reshape(-1, x.shape[-1]).float(), self.turn)
        highest = t.abs().amax(1, keepdim=True).clamp_(min=1e-12)
        # Unsigned with a zero point of 128, for which oneDNN has a fast kernel. Truncation rounds
        # here: all values are positive, and _MIDDLE adds half a step.
        levels = torch.addcmul(_MIDDLE, t, highest.reciprocal(), value=LEVELS).to(torch.uint8)
        y = _product(levels, self._packed, self.scale, self._zero)
        y = y.mul_(highest) if self.bias is None else torch.addcmul(self.bias, y, highest)
        return y.view(*x.shape[:-1], -1).to(x.dtype)


def _product(levels: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """oneDNN's product of unsigned inputs, whose zero is 128, with packed signed weights."""
    how: Any = (None, 1.0, 0, torch.float32, "none", [], "")
    return torch.ops.onednn.qlinear_pointwise(levels, 1.0, 128, packed, scale, zero, *how)


_MIDDLE = torch.tensor(128.5)


def block_of(width: int) -> int:
    """The largest power of two that divides a width, at most BLOCK."""
    return min(width & -width, BLOCK)


@cache
def hadamard(size: int) -> Tensor:
    """The orthogonal Hadamard matrix [size, size] of a power of two."""
    h = torch.ones(1, 1)
    while len(h) < size:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    return h / size**0.5


def turn(x: Tensor, h: Tensor) -> Tensor:
    """x [n, width] with every block of its columns multiplied by h."""
    return (x.reshape(-1, len(h)) @ h).view(x.shape)


def _has_fbgemm() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines and torch.cpu._is_avx2_supported()


@cache
def has_int8() -> bool:
    """True if this chip multiplies 8-bit integers natively and oneDNN's kernel gives exact sums.

    Without VNNI that kernel adds pairs in 16 bits, which overflow.
    """
    if not (torch.cpu._is_vnni_supported() and torch.cpu._is_avx512_supported()):
        return False
    x, w = torch.randint(-127, 128, (9, 64)), torch.randint(-127, 128, (48, 64))
    try:
        packed = torch.ops.onednn.qlinear_prepack(w.to(torch.int8), None)
        zero = torch.zeros(48, dtype=torch.int32)
        y = _product((x + 128).to(torch.uint8), packed, torch.ones(48), zero)
    except (AttributeError, RuntimeError):  # a torch without oneDNN, or with another signature
        return False
    return bool((y == (x @ w.T).float()).all())
