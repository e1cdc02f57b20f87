"""Approximate inverse Hessians of logistic problems, in the eigenbasis of the rows' second moments.

Multinomial ones have a weight vector for each class, binary ones a single one.

Shapes: N rows, D features, J problems, K classes, n rows of a sample. V is (J, K, D + 1), intercepts last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from featurebank.probes._design import Design

MANY_CLASSES = 1024  # beyond which each class is taken by itself
SHIFT = 0.005  # of the largest eigenvalue


class Preconditioner:
    """Eigenvectors and eigenvalues of the rows' second moments, from a few thousand rows."""

    def __init__(self, design: Design) -> None:
        self.few = design.few
        part = self.few.to(design.dtype)
        values, self.vectors = torch.linalg.eigh(part.T @ part / len(part))
        self.values = values.clamp_min(0)

    def at(self, V: torch.Tensor, lam: torch.Tensor) -> Inverse:
        """The approximate inverse Hessians at V (J, K, D + 1)."""
        j, k, d = V.shape[0], V.shape[1], V.shape[2] - 1
        Z = (V[..., :d].reshape(j * k, d).to(self.few.dtype) @ self.few.T).to(V.dtype).view(j, k, -1) + V[..., d:]
        P = torch.softmax(Z, 1) if k > 1 else torch.sigmoid(Z)
        classes: torch.Tensor | None = None
        if k > MANY_CLASSES or k == 1:
            strength = (P * (1 - P)).mean(2)
        else:
            between = torch.diag_embed(P.mean(2)) - P @ P.transpose(1, 2) / P.shape[2]
            strength, classes = torch.linalg.eigh(between)
            strength.clamp_min_(0)
        values = strength[..., None] * self.values
        values += SHIFT * values.amax((1, 2), keepdim=True) + lam[:, None, None]
        return Inverse(self.vectors, classes, values, strength[..., None] + 1e-6)


@dataclass
class Inverse:
    """A preconditioner: eigenvectors of features (D, D) and classes (J, K, K), what to divide by there.

    Many classes are taken one by one, without eigenvectors.
    """

    features: torch.Tensor
    classes: torch.Tensor | None
    values: torch.Tensor
    intercepts: torch.Tensor

    def __getitem__(self, chosen: torch.Tensor) -> Inverse:
        classes = None if self.classes is None else self.classes[chosen]
        return Inverse(self.features, classes, self.values[chosen], self.intercepts[chosen])

    def __call__(self, G: torch.Tensor) -> torch.Tensor:
        """(J, K, D + 1) to the same shape."""
        turned = G if self.classes is None else self.classes.transpose(1, 2) @ G
        W = (turned[..., :-1] @ self.features / self.values) @ self.features.T
        scaled = torch.cat([W, turned[..., -1:] / self.intercepts], 2)
        return scaled if self.classes is None else self.classes @ scaled
