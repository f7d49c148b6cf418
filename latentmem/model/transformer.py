"""The forward pass of the Llama, Qwen2 and Qwen3 families as plain functions over frozen weights.

transformers cannot do three things that it does: a static cache shared by rows with different soft
prompts and compacted as rows finish; grouped-query attention on a CPU without a copy of the keys
for each query head; and training with the prompt's keys and values computed once for all rollouts
of a problem. `tests/model/test_language_model.py` holds it to transformers' own logits.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..records import LatentmemError
from .allocator import file_pages, let_go
from .kv_cache import Past
from .linear import Linear

# ---------- The norm and the gated activation. Their backward pass recomputes what autograd keeps.


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
        trained = None
        if ctx.needs_input_grad[1]:
            trained = (g * unit).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, trained, None
        g = g * weight.float()
        return (g - unit * (g * unit).mean(-1, keepdim=True)).mul_(scale).to(x.dtype), trained, None


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last axis (RMSNorm, arXiv 1910.07467), in float32; x [..., H],
    weight [H] -> [..., H]"""
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
    """silu(gate) * up (SwiGLU, arXiv 2002.05202); gate_up [..., 2 * I], gate first -> [..., I]"""
    return _Gated.apply(gate_up) if torch.is_grad_enabled() else _gated(gate_up)


FAMILIES = ("llama", "qwen2", "qwen3")


@dataclass(frozen=True, eq=False)
class Layer:
    """One block's frozen weights; q, k and v are one matrix, so are gate and up."""

    norm1: Tensor
    qkv: Linear  # [(heads + 2 kv_heads) * head_dim, hidden]
    out: Linear  # [hidden, heads * head_dim]
    norm2: Tensor
    gate_up: Linear  # [2 * intermediate, hidden]
    down: Linear  # [hidden, intermediate]
    qk_norm: tuple[Tensor, Tensor] | None = None  # Qwen3's norms of queries and keys, [head_dim]


@dataclass(frozen=True, eq=False)
class Transformer:
    """A whole frozen model."""

    layers: tuple[Layer, ...]
    embedding: Tensor  # [V, hidden]
    head: Linear  # [V, hidden]; the embedding itself where the model ties them
    norm: Tensor
    rotary: Any  # transformers' rotary embedding module: it knows every kind of RoPE scaling
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    use_int8: bool = False  # products without a gradient are in 8-bit integers

    @property
    def hidden(self) -> int:
        return self.embedding.shape[1]

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def flow(self) -> torch.dtype:
        """The type of numbers between matrices: float32 where these are rounded."""
        return torch.float32 if self.use_int8 and not torch.is_grad_enabled() else self.dtype

    @property
    def arithmetic(self) -> str:
        """How the frozen matrices multiply: int8, or the name of the numeric type."""
        return "int8" if self.use_int8 else str(self.dtype).removeprefix("torch.")

    @property
    def cached(self) -> int:
        """Bytes of the keys and values of one position."""
        return 2 * len(self.layers) * self.kv_heads * self.head_dim * self.dtype.itemsize

    @property
    def spare(self) -> int:
        """Bytes of a GPU's memory beside the weights. It is of the whole card, not of what is free
        at the moment: batches sized by it must stay the same when a run goes on."""
        matrices = [m.weight for w in self.layers for m in (w.qkv, w.out, w.gate_up, w.down)]
        # by address: a tied head counts once
        weights = {t.data_ptr(): t.nbytes for t in (self.embedding, self.head.weight, *matrices)}
        return int(torch.cuda.mem_get_info(self.device)[1]) - sum(weights.values())


# seen in the modules, or in another member
_FREE = {"attention_bias", "mlp_bias", "max_window_layers", "rope_scaling"}
_FOLLOWED = {
    "hidden_act": ("silu", "swish"),
    "is_causal": (True,),
    "rope_type": ("default", "linear", "yarn", "llama3"),
}
_MATTERS = re.compile(
    "_act$|activ|bias|causal|chunk|clip|layer_types|logit|multip"
    "|norm(?!_eps)|parallel|partial|scal|cap|window"
)


def unfollowed(config: dict[str, Any]) -> str | None:
    """The first member of a config, with its value, that `forward` does not follow and
    transformers may ignore; None if there is none."""
    rope = {"rope_type": "default"} | (config.get("rope_parameters") or {})
    checked = config | {name: rope.get(name) for name in ("rope_type", "partial_rotary_factor")}
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    checked["layer_types"] = min(kinds, default=None)

    def strange(name: str, value: Any) -> bool:
        if name in _FOLLOWED:
            return value not in _FOLLOWED[name]
        active = value is True or value not in (None, False, 0, 1, {})
        return active and name not in _FREE and bool(_MATTERS.search(name))

    found = [f"{name}={value}" for name, value in checked.items() if strange(name, value)]
    return found[0] if found else None


def take_apart(
    model: Any, device: torch.device, dtype: torch.dtype, *, use_int8: bool = False
) -> Transformer:
    """The Transformer of a loaded transformers model, on `device` in `dtype`. Empties the model's
    layers on the way, so that peak memory stays low, and converts several layers at a time.
    `use_int8`: sample in 8-bit integers.

    Raises LatentmemError for an architecture other than those in FAMILIES, or a config of them that
    `forward` does not follow.
    """
    config = model.config
    if config.model_type not in FAMILIES:
        raise LatentmemError(
            f"Models of type {config.model_type!r} are not supported: use one of the families "
            f"{', '.join(FAMILIES)}."
        )
    if found := unfollowed(config.to_dict()):
        raise LatentmemError(
            f"Models whose config has {found} are not supported: choose another model."
        )
    inner, files = model.model, file_pages()

    def moved(*tensors: Tensor) -> Tensor:
        return (torch.cat(tensors) if len(tensors) > 1 else tensors[0]).detach().to(device, dtype)

    def linear(*parts: Any) -> Linear:
        return _linear(parts, moved, files, use_int8)

    def layer(i: int) -> Layer:
        block, inner.layers[i] = inner.layers[i], torch.nn.Identity()
        return _layer(block, moved, linear)

    # packing is one thread's work; more threads hold more at once
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        head = pool.submit(linear, model.lm_head)
        layers = tuple(pool.map(layer, range(len(inner.layers))))
    tied = model.lm_head.weight is inner.embed_tokens.weight
    return Transformer(
        layers=layers,
        embedding=head.result().weight if tied else moved(inner.embed_tokens.weight),
        head=head.result(),
        norm=moved(inner.norm.weight),
        rotary=inner.rotary_emb.to(device),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        eps=config.rms_norm_eps,
        use_int8=use_int8,
        head_dim=getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
    )


def _linear(
    parts: Sequence[Any],
    moved: Callable[..., Tensor],
    files: Sequence[tuple[int, int]],
    use_int8: bool,
) -> Linear:
    """One matrix of several torch.nn.Linear, in its fastest form."""
    bias = None if parts[0].bias is None else moved(*(p.bias for p in parts))
    made = Linear(moved(*(p.weight for p in parts)), bias)
    for p in parts:
        if p.weight.data_ptr() != made.weight.data_ptr():
            let_go(p.weight.data_ptr(), p.weight.nbytes, files)
    if use_int8:
        made.round()
    else:
        made.pack(short=all(p.weight.dtype in (torch.bfloat16, torch.float16) for p in parts))
    return made


def _layer(block: Any, moved: Callable[..., Tensor], linear: Callable[..., Linear]) -> Layer:
    a, m = block.self_attn, block.mlp
    return Layer(
        norm1=moved(block.input_layernorm.weight),
        qkv=linear(a.q_proj, a.k_proj, a.v_proj),
        out=linear(a.o_proj),
        norm2=moved(block.post_attention_layernorm.weight),
        gate_up=linear(m.gate_proj, m.up_proj),
        down=linear(m.down_proj),
        qk_norm=(moved(a.q_norm.weight), moved(a.k_norm.weight)) if hasattr(a, "q_norm") else None,
    )


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding: x [B, heads, T, D]; cos, sin [B, 1, T, D], half of sin negated."""
    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, torch.cat((x[..., half:], x[..., :half]), -1), sin)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """q [B, heads, T, D]; k, v [B, kv_heads, S, D]; mask [B, 1, groups * T, S], added to the scores
    -> [B, heads, T, D].

    The query heads that share a key head lie along the query axis, so that keys and values are
    never copied. The mask has the same layout, or [B, 1, 1, S] for one query.
    """
    rows, heads, length, dim = q.shape
    groups = heads // k.shape[1]
    q = q.reshape(rows, k.shape[1], groups * length, dim)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).reshape(rows, heads, length, dim)


def causal_mask(visible: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """The additive mask [B, 1, length, S] of the last `length` of S positions; visible [B, S] is
    False at padding.

    A padding position sees itself: softmax over minus infinity alone would be NaN.
    """
    size = visible.shape[1]
    position = torch.arange(size, device=visible.device)
    query = position[size - length :, None]
    # [B, length, S]
    allowed = (position[None, :] <= query) & visible[:, None, :] | (position[None, :] == query)
    mask = torch.zeros(allowed.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)[:, None]


def decoding_mask(visible: Tensor, room: int, dtype: torch.dtype) -> Tensor:
    """The additive mask [B, 1, 1, P + room] of single new positions behind prompts; visible [B, P]
    is False at padding."""
    seen = torch.cat((visible, visible.new_ones(len(visible), room)), 1)
    mask = torch.zeros(seen.shape, dtype=dtype, device=visible.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]


def aligned(mask: Tensor) -> Tensor:
    """The same mask [..., S], with rows that begin at multiples of 8 numbers. CUDA's attention
    needs that; else every layer makes such a copy of its own and keeps it for the backward pass."""
    if all(s % 8 == 0 for s in mask.stride()[:-1]):
        return mask
    size = mask.shape[-1]
    return F.pad(mask, (0, -size % 8))[..., :size]


def forward(
    body: Transformer,
    x: Tensor,
    positions: Tensor,
    mask: Tensor,
    past: Past,
    vectors: Tensor | None = None,
) -> Tensor:
    """Final hidden states [B, T, hidden], after the last norm, for embeddings x [B, T, hidden] at
    positions [B, T]. `vectors` [B, layers, hidden]: each layer adds its own to every position of
    a row."""
    rows, length, _ = x.shape
    cos, sin = (t[:, None].to(x.dtype) for t in body.rotary(x, positions))  # [B, 1, T, D]
    sin[..., : body.head_dim // 2].neg_()
    turned, still = body.heads + body.kv_heads, body.kv_heads
    if length > 1:  # one for all layers, which keep it for the backward pass
        mask = mask.repeat(1, 1, body.heads // body.kv_heads, 1)
    if body.device.type == "cuda":
        mask = aligned(mask)
    for i, w in enumerate(body.layers):
        h = w.qkv(norm(x, w.norm1, body.eps))
        heads = h.view(rows, length, turned + still, body.head_dim).transpose(1, 2)
        qk, v = heads.split((turned, still), 1)
        if w.qk_norm:
            both = zip(qk.split((body.heads, body.kv_heads), 1), w.qk_norm, strict=True)
            qk = torch.cat([norm(part, weight, body.eps) for part, weight in both], 1)
        q, k = _rotate(qk, cos, sin).split((body.heads, body.kv_heads), 1)
        k, v = past.extend(i, k, v)
        h = _attend(q, k, v, mask).transpose(1, 2).reshape(rows, length, -1)
        x = x + w.out(h)
        h = gated(w.gate_up(norm(x, w.norm2, body.eps)))
        x = x + w.down(h)
        if vectors is not None:
            x = x + vectors[:, i, None]
    return norm(x, body.norm, body.eps)
