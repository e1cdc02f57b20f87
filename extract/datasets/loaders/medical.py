"""Medical sets; all of them have several images of one patient, whom a column names: split by it, never by image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featurebank.extract.datasets._listing import Listing
from featurebank.extract.datasets._place import Place

__all__ = ["breakhis", "chexpert", "rsna_pneumonia"]

CHEXPERT = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The five that the competition scores, in its order."""

UNCERTAIN_IS_POSITIVE = ("Atelectasis", "Edema")


def chexpert(place: Place, split: str) -> Listing:
    """``CheXpert-v1.0-small/<split>.csv``, five findings a radiograph; blank is 0.

    ``views=frontal`` leaves lateral ones out. ``uncertain`` says what the radiologist's "uncertain" (-1) becomes:
    ``mixed`` 1 for atelectasis and edema, else 0; ``zeros``; ``ones``; or ``ignore``, which keeps the label -1.
    """
    top = place.first("CheXpert-v1.0-small/", "CheXpert-v1.0/").rstrip("/")
    rows = list(place.csv(f"{top}/{split}.csv", "Frontal/Lateral", "Path", "Sex", "Age", *CHEXPERT))
    if place.options["views"] == "frontal":
        rows = [row for row in rows if row[0] == "Frontal"]
    files = [f"{top}/{row[1].partition('/')[2]}" for row in rows]
    values = [row[4:] for row in rows]
    if strangers := {value for row in values for value in row} - _FINDINGS.keys():
        raise place.error(f"{top}/{split}.csv", ", ".join(sorted(strangers)), "findings of 1, 0, -1 or blank")
    found = np.array([[_FINDINGS[value] for value in row] for row in values], np.int64).reshape(-1, len(CHEXPERT))
    return Listing(
        files=files,
        labels=_certain(found, place.options["uncertain"]),
        class_names=CHEXPERT,
        columns={
            "patient": np.array([file.split("/")[2] for file in files]),
            "sex": np.array([row[2] for row in rows]),
            "age": np.array([float(row[3] or "nan") for row in rows]),
        },
    )


_FINDINGS = {"": 0, "0": 0, "0.0": 0, "1": 1, "1.0": 1, "-1": -1, "-1.0": -1}


def _certain(labels: NDArray[np.int64], policy: str) -> NDArray[np.int64]:
    if policy == "ignore":
        return labels
    positive = {"mixed": np.isin(CHEXPERT, UNCERTAIN_IS_POSITIVE), "ones": np.ones(5, bool), "zeros": np.zeros(5, bool)}
    return np.where(labels < 0, positive[policy].astype(np.int64), labels)


def breakhis(place: Place, split: str) -> Listing:
    """``breast/{benign,malignant}/SOB/<type>/<slide>/<split>/``; ``labels`` is tumour (2) or type (8).

    A slide is one patient's: ``SOB_B_A_14-22549AB`` is slide 22549AB of 2014.
    """
    top = "BreaKHis_v1/histology_slides/breast"
    paths = []
    for tumour in ("benign", "malignant"):
        files = place.images(f"{top}/{tumour}/SOB")
        paths += [(tumour, *file.removeprefix(f"{top}/{tumour}/SOB/").split("/")) for file in files]
    rows = [path for path in paths if len(path) == 5 and path[3] == split.upper()]
    level = 1 if place.options["labels"] == "type" else 0
    names = list(dict.fromkeys(path[level] for path in paths))
    return Listing(
        files=[f"{top}/{row[0]}/SOB/{'/'.join(row[1:])}" for row in rows],
        labels=[names.index(row[level]) for row in rows],
        class_names=names,
        columns={"patient": np.array([row[2].rpartition("_")[2] for row in rows])},
        seen=True,
    )


def rsna_pneumonia(place: Place, split: str) -> Listing:
    """``stage_2_<split>_labels.csv``: one row a *box*, so that an image with two boxes stands twice; here once.

    The images are DICOM files, to be converted to PNG or JPEG under the same names first.
    """
    if split == "test":
        return Listing(files=place.images("stage_2_test_images"), seen=True)
    targets: dict[str, int] = {}
    for patient, target in place.csv("stage_2_train_labels.csv", "patientId", "Target"):
        targets[patient] = max(int(target), targets.get(patient, 0))
    folder = "stage_2_train_images"
    suffix = next((s for s in ("png", "jpg") if not place.missing([f"{folder}/{next(iter(targets), '')}.{s}"])), "png")
    return Listing(
        files=[f"{folder}/{name}.{suffix}" for name in targets],
        labels=list(targets.values()),
        class_names=("normal", "pneumonia"),
    )
