"""The norm and the gated activation of a block, whose backward pass computes again what autograd would keep.

Both are cheap beside the products around them. Autograd would keep the float32 copy of a norm's input and the activation of
the gate: with the default model 4 MB a layer for 256 positions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return _norm(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        wide, g = x.float(), grad.float()
        scale = (wide.square().mean(-1, keepdim=True) + ctx.eps).rsqrt_()
        unit = wide * scale  # y = unit * weight
        trained = (g * unit).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        if not ctx.needs_input_grad[0]:
            return None, trained, None
        g = g * weight.float()
        return (g - unit * (g * unit).mean(-1, keepdim=True)).mul_(scale).to(x.dtype), trained, None


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis (RMSNorm, arXiv 1910.07467), in float32; x [..., H], weight [H] -> [..., H]"""
    return _Norm.apply(x, weight, eps) if torch.is_grad_enabled() else _norm(x, weight, eps)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        return torch.cat((torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)), -1)


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up (SwiGLU, arXiv 2002.05202); gate_up [..., 2 * I], the gate first -> [..., I]"""
    return _Gated.apply(gate_up) if torch.is_grad_enabled() else _gated(gate_up)
