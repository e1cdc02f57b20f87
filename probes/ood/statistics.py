"""The training rows of out-of-distribution scores, and what several scores read from them, each at most once.

A GPU is sent the training rows once, in the dtype that they come in, where it has room for them; blocks are cast there.

Shapes: N rows, D features, K classes, m rows of a block. Sums over rows are float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from featurebank.probes._rows import BLOCK_VALUES, check_block, row_slices
from featurebank.probes.metrics import as_labels
from featurebank.probes.ood.block import Affine, Block, argmax
from featurebank.probes.ood.head import Head
from featurebank.probes.ood.moments import Moments, add_by_class, add_gram, symmetric
from featurebank.retrieval._features import as_features
from featurebank.retrieval._room import as_they_come, held_on

__all__ = ["TrainingSet"]

ROWS, LOGIT_ROWS = 1024, 256  # of a block; where only logits are read, a few that stay in the cache
T = TypeVar("T")


class Part(Generic[T]):
    """A part of a training set; where it has none, asking for it is a ValueError that says what to do."""

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, train: TrainingSet, value: T | None) -> None:
        vars(train)[self.name] = value

    def __get__(self, train: TrainingSet, owner: type) -> T:
        if (value := vars(train)[self.name]) is None:
            raise ValueError(f"{self.name} must be given; the training set has none: {self.remedy}")
        return value  # type: ignore[no-any-return]


class TrainingSet:
    """The in-distribution rows that scores are fitted on.

    Features and logits are kept by reference, memory maps included, and read in blocks; statistics that several scores
    need are computed at the first request. Without validation rows, the scores whose papers take a held-out part
    (temperature scaling, KL matching) use the training rows.

    Args:
        features: (N, D) float16, float32 or float64.
        labels: (N,) integers in 0..K-1.
        logits: (N, K); computed from the head where None.
        head: weights and bias of the classifier.
        text: (K, D) embeddings of the class names, for MCM.
        validation: logits (V, K) and labels (V,) of held-out in-distribution rows.
        device: of torch.

    Raises:
        ValueError: shapes that do not match, or no rows.
    """

    features = Part[NDArray[Any]]("pass the features (N, D)")
    labels = Part[NDArray[np.int64]]("pass the classes (N,) of the training rows")
    logits = Part[NDArray[Any]]("pass logits (N, K) or a head")
    head = Part[Head]("pass the backbone's own classifier, or a probe's weights as Head(..., source='probe')")
    text = Part[NDArray[Any]]("pass the text embeddings (K, D) of the class names")

    def __init__(
        self,
        features: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        logits: ArrayLike | None = None,
        head: Head | None = None,
        text: ArrayLike | None = None,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
        device: str = "cpu",
    ) -> None:
        self.head, self.device = head, device
        self._held: dict[str, Tensor | None] = {}
        self.features, self.logits, self.text = (
            None if values is None else as_features(values, name)
            for name, values in (("features", features), ("logits", logits), ("text", text))
        )
        if not self.has("features") and not self.has("logits"):
            raise ValueError("a training set must have features (N, D) or logits (N, K); found neither")
        self.rows = len(self.features if self.has("features") else self.logits)
        self._check_widths()
        self.labels = None
        if labels is not None:
            classes = self.classes if self.has("logits") or self.has("head") else None
            self.labels = as_labels(labels, rows=self.rows, classes=classes)
        self.validation = validation and self._checked_validation(*validation)

    def has(self, part: str) -> bool:
        """Whether it was given ``features``, ``labels``, ``logits``, ``head`` or ``text``."""
        return vars(self)[part] is not None

    @cached_property
    def classes(self) -> int:
        """K: of the head, the logits, or the labels."""
        if self.has("head"):
            return len(self.head.weight)
        return int(self.logits.shape[1] if self.has("logits") else 1 + self.labels.max())

    def missing(self, needs: Sequence[str]) -> str | None:
        """The first of the needs that this training set does not meet."""
        through = {"logits"} if self.has("head") and self.has("features") else set()
        return next((need for need in needs if not self.has(need) and need not in through), None)

    def require(self, needs: Sequence[str], what: str) -> None:
        """Raises ValueError, with what to do, where a need is not met."""
        if (need := self.missing(needs)) is not None:
            raise ValueError(f"{what} needs {need}; the training set has none: {_remedy(need)}")

    def blocks(
        self, features: ArrayLike | None, logits: ArrayLike | None, *, needs: Sequence[str], rows: int | None = None
    ) -> Iterator[tuple[slice, Block]]:
        """Blocks of any rows, checked against the widths of training.

        Raises:
            ValueError: what is needed is missing, widths or rows that do not match, NaN or infinity.
        """
        x = as_features(features) if features is not None and (needs != ("logits",) or logits is None) else None
        given = None if logits is None else as_features(logits, "logits")
        for need, lacks in (("features", x is None), ("logits", given is None and (x is None or not self.has("head")))):
            if need in needs and lacks:
                raise ValueError(f"{need} of the rows must be given; found none: {_remedy(need)}")
        self._check_rows(x, given)
        arrays = {name: array for name, array in (("features", x), ("logits", given)) if array is not None}
        most = min(max(1, BLOCK_VALUES // array.shape[1]) for array in arrays.values())
        step = min(most, rows or (LOGIT_ROWS if x is None else ROWS))
        for where in row_slices(len(next(iter(arrays.values()))), 1, rows=step):
            tensors = {name: self._read(array, where, name) for name, array in arrays.items()}
            yield where, Block(**{"features": None, **tensors}, head=self.affine if self.has("head") else None)

    def training_blocks(self, *needs: str, rows: int | None = None) -> Iterator[tuple[slice, Block]]:
        """Blocks of the training rows."""
        features = self.features if self.has("features") else None
        logits = self.logits if "logits" in needs and self.has("logits") else None
        return self.blocks(features, logits, needs=needs, rows=rows)

    @cached_property
    def affine(self) -> Affine:
        """The head, on the device."""
        return Affine(self.on_device(self.head.weight), self.on_device(self.head.bias))

    def on_device(self, values: NDArray[Any]) -> Tensor:
        """An array as float32 on the device."""
        return torch.from_numpy(np.array(values, np.float32)).to(self.device)

    @cached_property
    def moments(self) -> Moments:
        """Of the features."""
        return self._moments(unit=False)

    @cached_property
    def unit_moments(self) -> Moments:
        """Of the features scaled to unit length."""
        return self._moments(unit=True)

    @cached_property
    def mean(self) -> Tensor:
        """(D,) float64, of the features."""
        total = torch.zeros(self.features.shape[1], dtype=torch.float64, device=self.device)
        for _, block in self.training_blocks("features"):
            total += block.features.sum(0, dtype=torch.float64)
        return total / self.rows

    @cached_property
    def energies(self) -> Tensor:
        """(N,) float64, log-sum-exp of each row's logits."""
        return torch.cat([block.energy for _, block in self.training_blocks("logits")])

    @cached_property
    def posteriors(self) -> Tensor:
        """(K, K) float64, the mean softmax of the rows predicted as each class; NaN where there are none."""
        sums = torch.zeros(self.classes, self.classes, dtype=torch.float64, device=self.device)
        counts = torch.zeros(self.classes, dtype=torch.float64, device=self.device)
        for _, block in self.training_blocks("logits"):
            add_by_class(sums, block.predicted, block.probabilities.double())
            counts += torch.bincount(block.predicted, minlength=self.classes)
        return sums / counts[:, None]

    @cached_property
    def pattern_rows(self) -> NDArray[np.bool_]:
        """(N,) the rows that stand for their class: the correctly classified ones, all where a class has none.

        Raises:
            ValueError: a class has no training row.
        """
        absent = np.flatnonzero(np.bincount(self.labels, minlength=self.classes) == 0)
        if absent.size:
            raise ValueError(
                f"every class of the logits must have a training row; found none of {absent.size} classes, the first "
                f"{absent[0]}; use a head of the classes that the training rows have"
            )
        predicted = [argmax(block.logits).cpu().numpy() for _, block in self.training_blocks("logits")]
        correct = np.concatenate(predicted) == self.labels
        unlearned = np.bincount(self.labels[correct], minlength=self.classes) == 0
        chosen: NDArray[np.bool_] = correct | unlearned[self.labels]
        return chosen

    def feature_rows(self, rows: Tensor) -> Tensor:
        """The features of some training rows (m,), as float32 on the device."""
        held = self._holding(self.features, "features")
        return self.on_device(self.features[rows.cpu().numpy()]) if held is None else held[rows].float()

    def _read(self, array: NDArray[Any], where: slice, name: str) -> Tensor:
        """Rows as float32 on the device; ValueError where a value is not finite."""
        if (held := self._holding(array, name)) is not None:
            return held[where].float()
        values = array[where]
        if self.device != "cpu":
            rows = as_they_come(array, where).to(self.device).float()
        elif values.dtype == np.float32 and values.flags.c_contiguous:
            rows = from_dlpack(values)  # not a copy, nor a warning of one that cannot be written to
        else:
            with np.errstate(over="ignore"):
                rows = torch.from_numpy(np.array(values, np.float32, order="C"))
        return _finite(rows, name, where.start)

    def _holding(self, array: NDArray[Any], name: str) -> Tensor | None:
        """Training rows that stay on a GPU, found finite; None where they do not, and of other rows."""
        if array is not vars(self)[name]:
            return None
        if name not in self._held:
            held = held_on(torch.device(self.device), array)
            if held is not None:
                for where in row_slices(*array.shape, values=BLOCK_VALUES):
                    _finite(held[where].float(), name, where.start)
            self._held[name] = held
        return self._held[name]

    def _moments(self, *, unit: bool) -> Moments:
        d, labelled = self.features.shape[1], self.has("labels")
        k = self.classes if labelled else 1
        class_sums, counts, scatter = (
            torch.zeros(*shape, dtype=torch.float64, device=self.device) for shape in ((k, d), (k,), (d, d))
        )
        about = None if unit else self.mean
        for where, block in self.training_blocks("features"):
            rows = (block.unit if unit else block.features).double()
            about = rows.mean(0) if about is None else about
            rows -= about
            at = torch.tensor(self.labels[where] if labelled else np.zeros(len(rows), np.int64), device=self.device)
            add_by_class(class_sums, at, rows)
            counts += torch.bincount(at, minlength=k)
            add_gram(scatter, rows)
        assert about is not None  # noqa: S101 - there are rows
        offset = class_sums.sum(0) / self.rows
        return Moments(
            rows=self.rows,
            mean=about + offset if unit else about,
            covariance=symmetric(scatter) / self.rows - torch.outer(offset, offset),
            counts=counts,
            class_means=torch.where(counts[:, None] > 0, class_sums / counts.clamp(min=1)[:, None] + about, 0.0),
        )

    def _check_widths(self) -> None:
        arrays = {name: getattr(self, name) for name in ("features", "text", "logits") if self.has(name)}
        widths = {name: array.shape[1] for name, array in arrays.items()}
        k = widths.pop("logits", None)
        if self.has("head"):
            widths["head"] = self.head.weight.shape[1]
            if k not in (None, len(self.head.weight)):
                raise ValueError(f"logits and head must have the same K; found {k} and {len(self.head.weight)}")
        if len(set(widths.values())) > 1:
            raise ValueError(f"features, head and text must have the same D; found {widths}")
        if k == 1:
            raise ValueError(f"logits must have at least two classes; found shape {self.logits.shape}")
        self._check_rows(arrays.get("features"), arrays.get("logits"))

    def _check_rows(self, x: NDArray[Any] | None, logits: NDArray[Any] | None) -> None:
        if x is not None and self.has("features") and x.shape[1] != self.features.shape[1]:
            raise ValueError(f"features must be (N, {self.features.shape[1]}) as in training; found {x.shape}")
        known = self.has("logits") or self.has("head")
        if logits is not None and known and logits.shape[1] != self.classes:
            raise ValueError(f"logits must be (N, {self.classes}) as in training; found {logits.shape}")
        if x is not None and logits is not None and len(x) != len(logits):
            raise ValueError(f"features and logits must have the same rows; found {len(x)} and {len(logits)}")

    def _checked_validation(self, logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
        array = as_features(logits, "validation logits")
        if array.shape[1] != self.classes:
            raise ValueError(f"validation logits must be (V, {self.classes}); found {array.shape}")
        return array, as_labels(labels, rows=len(array), classes=self.classes, name="validation labels")


def _finite(rows: Tensor, name: str, first: int) -> Tensor:
    """The same rows (m, D); ValueError where a value is not finite."""
    if not rows.sum().isfinite():  # or a sum that overflows
        check_block(rows.cpu().numpy(), name, first)
    return rows


def _remedy(part: str) -> str:
    remedy: str = vars(TrainingSet)[part].remedy
    return remedy
