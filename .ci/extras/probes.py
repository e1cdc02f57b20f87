"""Every probe and score on arrays, without a command line or a backbone."""

from importlib import import_module

from toy import absent, rows

from featurebank.probes.logistic import LogisticProbe, LogisticProbeCV
from featurebank.probes.neighbours import KNNProbe, NearestClassMean
from featurebank.probes.ood.registry import get

absent("timm", "typer", "faiss", "PIL")
x, y = rows(0)
for probe in (LogisticProbe(), LogisticProbeCV(), KNNProbe(k=3), NearestClassMean()):
    assert probe.fit(x, y).score(*rows(1)) > 0.9, probe
for module in (
    "calibration",
    "dense",
    "fewshot",
    "groups",
    "heads",
    "multilabel",
    "ridge",
    "shift",
    "tokens",
    "zeroshot",
):
    import_module(f"featurebank.probes.{module}")
assert get("energy") is not None
