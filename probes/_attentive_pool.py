"""The network of the attentive probe. Imports torch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentivePool(nn.Module):
    """Tokens (B, T, D) to logits (B, K): one learned query attends to all tokens, then a linear layer.

    Keys are W_k x and values W_v x. As the query is the same for every image, q . W_k x is computed as (W_k^T q) . x
    and the attention is taken over the tokens before W_v, which leaves one product of D x heads a token, not of D x D.
    """

    def __init__(self, width: int, n_classes: int, n_heads: int, eps: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.BatchNorm1d(width, affine=False, eps=eps)
        self.query = nn.Parameter(torch.randn(n_heads, width // n_heads) * 0.02)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.head = nn.Linear(width, n_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T, D) to (B, K)."""
        x = self.norm(tokens.flatten(0, 1)).view_as(tokens)
        pooled = self.attention(x).transpose(1, 2) @ x
        values = torch.einsum("bhc,hdc->bhd", pooled, self._per_head(self.value))
        return self.head(values.flatten(1))  # type: ignore[no-any-return]

    def attention(self, x: Tensor) -> Tensor:
        """What each head looks at (B, T, H), adding up to 1 over the tokens, given normalised tokens."""
        query = torch.einsum("hd,hdc->ch", self.query, self._per_head(self.key))
        return torch.softmax(x @ query * self.query.shape[1] ** -0.5, dim=1)

    def _per_head(self, layer: nn.Linear) -> Tensor:
        return layer.weight.view(self.n_heads, -1, layer.in_features)
