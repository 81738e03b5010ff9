"""Linear layers with oneDNN's weight layout: the same numbers, faster on a CPU.

On processors where PyTorch's default matrix product is slow (AMD), float32 inference takes less
than half the time; `benchmarks/scorers.py` measures it. Gradients with respect to the input work,
gradients with respect to the weights do not exist, which suits frozen networks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def available(device: str, dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch and this processor can run packed layers of `dtype`."""
    onednn = torch.ops.mkldnn
    needed = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    if device != "cpu" or not all(hasattr(onednn, name) for name in needed):
        return False
    return dtype != torch.bfloat16 or bool(onednn._is_mkldnn_bf16_supported())


def pack_where_available(network: nn.Module, device: str, dtype: torch.dtype) -> None:
    """`pack` a network of `dtype` on `device`, or leave it as it is, which is slower."""
    if available(device, dtype):
        pack(network)


def pack(network: nn.Module) -> None:
    """Replace every linear layer and self-attention of a frozen network on the CPU."""
    for name, child in network.named_children():
        if isinstance(child, nn.MultiheadAttention):
            setattr(network, name, PackedSelfAttention(child))
        elif isinstance(child, nn.Linear):
            setattr(network, name, PackedLinear(child.weight, child.bias))
        else:
            pack(child)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0] @ ctx.weight.to_dense(), None, None


class PackedLinear(nn.Module):
    """A frozen `nn.Linear`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Keep the weight [out, in] in oneDNN's layout alone."""
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
        self.bias = bias

    def forward(self, inputs: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        outputs: Tensor = _Linear.apply(inputs, self.weight, self.bias)
        return outputs


class PackedSelfAttention(nn.Module):
    """A frozen `nn.MultiheadAttention` with the batch first, asked about one sequence."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        """Take over its weights."""
        super().__init__()
        if not attention.batch_first or attention.in_proj_weight is None:
            raise ValueError("only batch-first self-attention can be packed")
        self.heads = attention.num_heads
        self.inward = PackedLinear(attention.in_proj_weight, attention.in_proj_bias)
        self.outward = PackedLinear(attention.out_proj.weight, attention.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """[B, L, D] -> [B, L, D]; `key` and `value` are `query` itself."""
        rows, length, width = query.shape
        split = self.inward(query).view(rows, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return self.outward(seen.transpose(1, 2).reshape(rows, length, width)), None
