"""What a page shows of segmented images: the worst first, with classes as lines and wrong pixels as areas."""

from __future__ import annotations

import re
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import confusion_matrix, jaccard_score  # type: ignore[import-untyped]

from featurebank.pipelines.errors import ConfigError
from featurebank.pipelines.jobs.drawing import mask_path
from featurebank.pipelines.jobs.segmentation.picturing import segments_section

NAMES = ("background", "<b>leaf</b>", "root")


def arrays() -> dict[str, Any]:
    """Five images of 12 x 16 pixels on a canvas of 16, ever more of them wrong; of the last no pixel counts."""
    generator = np.random.default_rng(0)
    truth = np.full((5, 16, 16), 255, np.uint8)
    truth[:4, 2:14] = generator.integers(0, 3, (4, 12, 16))
    predictions = np.where(truth == 255, 0, truth)
    for image, share in enumerate((0.5, 0.1, 0.3, 0.0)):
        wrong = generator.random((12, 16)) < share
        predictions[image, 2:14][wrong] = (predictions[image, 2:14][wrong] + 1) % 3
    counts = [
        confusion_matrix(one[one != 255], other[one != 255], labels=range(3))
        if (one != 255).any()
        else np.zeros((3, 3))
        for one, other in zip(truth, predictions, strict=True)
    ]
    return {
        "names": np.array(NAMES), "ids": np.array([f"image {at}" for at in range(5)]), "rows": np.arange(5) + 7,
        "truth": truth, "predictions": predictions, "places": np.array([[2, 14, 0, 16]] * 5),
        "confusion": np.array(counts, np.int64),
    }  # fmt: skip


def section(kept: dict[str, Any], thumbnails: Any = None) -> str:
    file = BytesIO()
    Image.new("RGB", (16, 12)).save(file, "PNG")
    entry = SimpleNamespace(path="set.h5", place="plants/test")
    case = SimpleNamespace(backbone="net", one=lambda _: entry, place=lambda _: "plants/test")
    album = SimpleNamespace(thumbnails=thumbnails or (lambda *_, **__: lambda _: file.getvalue()))
    one: Any = SimpleNamespace(case=case, results=(None,))
    results: Any = SimpleNamespace(arrays=lambda _: kept)
    return segments_section([one], results, album)  # type: ignore[arg-type]


def test_the_worst_come_first_with_their_own_overlap() -> None:
    kept = arrays()
    told = re.findall(r"IoU ([\d.]+)<br>(image \d)<", section(kept))
    overlaps = {
        f"image {at}": jaccard_score(
            kept["truth"][at, 2:14].ravel(), kept["predictions"][at, 2:14].ravel(), average="macro"
        )
        for at in range(4)
    }
    assert [name for _, name in told] == ["image 0", "image 2", "image 3", "image 1"]
    assert [float(value) for value, _ in told] == pytest.approx([overlaps[name] for _, name in told], abs=0.005)


def test_lines_are_of_each_class_and_areas_of_what_is_wrong() -> None:
    kept = arrays()
    text = section(kept)
    truth, predicted = kept["truth"][0, 2:14], kept["predictions"][0, 2:14]
    assert f'class="area" d="{mask_path(truth != predicted, (12, 16))}"' in text
    for number in (1, 2):
        assert f'class="object" d="{mask_path(truth == number, (12, 16))}"' in text
        assert f'class="detection" d="{mask_path(predicted == number, (12, 16))}"' in text
    assert "<b>leaf" not in text
    assert "&lt;b&gt;leaf&lt;/b&gt;, predicted" in text


def test_without_images_the_confusion_stands_alone_and_odd_arrays_are_one_clear_error() -> None:
    def nowhere(*_: Any, **__: Any) -> Any:
        raise ConfigError("no folder <here>")

    text = section(arrays(), nowhere)
    assert "No images: no folder &lt;here&gt;" in text
    share = arrays()["confusion"].sum(0)[0]
    assert f">{100 * share[0] / share.sum():.0f} %</text>" in text
    with pytest.raises(ValueError, match="results of net must have all that a page shows"):
        section({"confusion": np.zeros((1, 2, 2))})
