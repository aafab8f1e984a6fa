"""MultiheadAttention."""
from __future__ import annotations

import math

from .. import ops
from . import functional as F
from . import init
from .linear import Linear
from .module import Module
from .parameter import Parameter

__all__ = ["MultiheadAttention"]


class MultiheadAttention(Module):
    """Attention in several heads (Vaswani et al., 2017). As torch.nn.MultiheadAttention.

    query (T, N, embed_dim), key (S, N, kdim), value (S, N, vdim); with batch_first (N, T, ...); without N, 2-d.
    Raises: ValueError, AssertionError for sizes that do not fit.
    """

    def __init__(self, embed_dim, num_heads, dropout=0.0, bias=True, add_bias_kv=False, add_zero_attn=False, kdim=None,
                 vdim=None, batch_first=False, device=None, dtype=None):
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError("[MultiheadAttention] embed_dim and num_heads must be greater than 0, got "
                             f"embed_dim={embed_dim} and num_heads={num_heads} instead")
        if embed_dim % num_heads:
            raise AssertionError(f"[MultiheadAttention] embed_dim must be divisible by num_heads, got {embed_dim} and "
                                 f"{num_heads}")
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, embed_dim // num_heads
        self.kdim = kdim if kdim is not None else embed_dim
        self.vdim = vdim if vdim is not None else embed_dim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, add_zero_attn
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim

        def made(*size):
            return Parameter(ops.empty(*size, device=device, dtype=dtype))

        # one matrix for all three where they have one size, as in PyTorch: the other names are there, but None
        same = self._qkv_same_embed_dim
        self.register_parameter("q_proj_weight", None if same else made(embed_dim, embed_dim))
        self.register_parameter("k_proj_weight", None if same else made(embed_dim, self.kdim))
        self.register_parameter("v_proj_weight", None if same else made(embed_dim, self.vdim))
        self.register_parameter("in_proj_weight", made(3 * embed_dim, embed_dim) if same else None)
        self.register_parameter("in_proj_bias", made(3 * embed_dim) if bias else None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self.register_parameter("bias_k", made(1, 1, embed_dim) if add_bias_kv else None)
        self.register_parameter("bias_v", made(1, 1, embed_dim) if add_bias_kv else None)
        self._reset_parameters()

    def _reset_parameters(self):
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def _project(self, query, key, value):
        """Query, key and value (N, length, embed_dim)."""
        d = self.embed_dim
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self._qkv_same_embed_dim:
            if query is key and key is value:
                return ops.split(F.linear(query, self.in_proj_weight, self.in_proj_bias), d, -1)
            weights = ops.split(self.in_proj_weight, d)
        biases = (None,) * 3 if self.in_proj_bias is None else ops.split(self.in_proj_bias, d)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]

    def _mask(self, attn_mask, padding, dtype, n, t, s):
        """One additive mask (n or 1, heads or 1, t, s) of both, or None. True means: not allowed."""
        total = None
        if attn_mask is not None:
            wanted = {2: (t, s), 3: (n * self.num_heads, t, s)}.get(attn_mask.ndim)
            if tuple(attn_mask.shape) != wanted:
                raise RuntimeError(f"[MultiheadAttention] The shape of the {attn_mask.ndim}D attn_mask is "
                                   f"{tuple(attn_mask.shape)}, but "
                                   f"should be {wanted or ((t, s), 'or', (n * self.num_heads, t, s))}.")
            mask = _additive(attn_mask, dtype)
            total = mask if mask.ndim == 2 else ops.reshape(mask, (n, self.num_heads, t, s))
        if padding is not None:
            padding = padding if padding.ndim == 2 else ops.unsqueeze(padding, 0)
            if tuple(padding.shape) != (n, s):
                raise RuntimeError(f"[MultiheadAttention] expected a key_padding_mask of shape {(n, s)}, got "
                                   f"{tuple(padding.shape)}")
            padding = ops.reshape(_additive(padding, dtype), (n, 1, 1, s))
            total = padding if total is None else total + padding
        return total

    def forward(self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None,
                average_attn_weights=True, is_causal=False):
        """(attention like query, weights (N, T, S) or with heads, or None).

        Masks: True or -inf where attention is not allowed; attn_mask (T, S) or (N * heads, T, S), key_padding_mask
        (N, S). `is_causal` says that attn_mask is the causal one. Raises: RuntimeError for shapes that do not fit.
        """
        if query.ndim not in (2, 3) or not query.ndim == key.ndim == value.ndim:
            raise RuntimeError("[MultiheadAttention] query, key and value should be all 2-D or 3-D, got "
                               f"{query.ndim}-D, {key.ndim}-D and {value.ndim}-D")
        if is_causal and attn_mask is None:
            raise RuntimeError("[MultiheadAttention.forward] Need attn_mask if specifying the is_causal hint.")
        same = query is key and key is value
        single = query.ndim == 2
        if single:
            query, key, value = (ops.unsqueeze(x, 0) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (ops.transpose(x, 0, 1) for x in (query, key, value))
        if same:
            key = value = query
        n, t = query.shape[:2]
        s = key.shape[1]
        mask = self._mask(attn_mask, key_padding_mask, query.dtype, n, t, s)
        q, k, v = self._project(query, key, value)
        for extra_k, extra_v in self._extra(q, n):
            k, v = ops.cat([k, extra_k], 1), ops.cat([v, extra_v], 1)
            if mask is not None:
                mask = F.pad(mask, (0, 1))
        q, k, v = (
            ops.transpose(ops.reshape(x, (n, x.shape[1], self.num_heads, self.head_dim)), 1, 2) for x in (q, k, v))
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = ops.matmul(q * (1 / math.sqrt(self.head_dim)), ops.transpose(k, -2, -1))
            weights = ops.softmax(scores if mask is None else scores + mask, -1)
            weights = F.dropout(weights, drop) if drop else weights
            out = ops.matmul(weights, v)
            if average_attn_weights:
                weights = ops.mean(weights, 1)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, drop)
        out = self.out_proj(ops.reshape(ops.transpose(out, 1, 2), (n, t, self.embed_dim)))
        if single:
            return out[0], None if weights is None else weights[0]
        return (out if self.batch_first else ops.transpose(out, 0, 1)), weights

    def _extra(self, like, n):
        """Keys and values (n, 1, embed_dim) that stand after those of the sequence."""
        if self.bias_k is not None:
            yield tuple(ops.expand(b, (n, 1, self.embed_dim)) for b in (self.bias_k, self.bias_v))
        if self.add_zero_attn:
            zero = ops.zeros(n, 1, self.embed_dim, dtype=like.dtype, device=like.device)
            yield zero, zero


def _additive(mask, dtype):
    """A boolean mask as 0 and -inf; another one as it is."""
    if mask.dtype.name != "bool":
        return mask
    return ops.masked_fill(ops.zeros(*mask.shape, dtype=dtype, device=mask.device), mask, -math.inf)
