"""Packed layers are the layers that they replace."""

from __future__ import annotations

import pytest
import torch
from bench_plugins.reward_models import packed
from torch import nn

pytestmark = pytest.mark.skipif(
    not packed.available("cpu", torch.float32), reason="this PyTorch has no oneDNN"
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.inner = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 1, bias=False))

    def forward(self, x, mask=None):
        seen = self.attention(x, x, x, need_weights=False, attn_mask=mask)[0]
        return self.inner(x + seen)


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_the_same(masked):
    torch.manual_seed(0)
    block = Block().eval().requires_grad_(False)
    inputs = torch.randn(3, 7, 32)
    mask = torch.full((7, 7), float("-inf")).triu_(1) if masked else None
    results = []
    for packing in (False, True):
        if packing:
            packed.pack(block)
        leaf = inputs.clone().requires_grad_()
        outputs = block(leaf, mask)
        outputs.square().sum().backward()
        with torch.inference_mode():
            torch.testing.assert_close(block(inputs, mask), outputs.detach())
        results.append((outputs.detach(), leaf.grad))
    kinds = [type(m).__name__ for m in block.modules()]
    assert kinds.count("PackedLinear") == 4
    assert "Linear" not in kinds
    for plain, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("supported", [True, False])
def test_16_bits_are_packed_where_the_processor_can(supported, monkeypatch):
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported, raising=False
    )
    assert packed.available("cpu", torch.bfloat16) == supported
    assert packed.available("cpu", torch.float32)
    assert not packed.available("cuda", torch.bfloat16)


def test_other_attention_is_refused():
    with pytest.raises(ValueError, match="batch-first"):
        packed.pack(nn.ModuleList([nn.MultiheadAttention(8, 2)]))
