"""Exact and approximate search, metrics and better rankings, without a command line or a backbone."""

from toy import absent, rows

from featurebank import retrieval

absent("timm", "typer", "PIL")
x, y = rows(0)
_, found = retrieval.nearest(x, x, k=3)
index = retrieval.FeatureIndex.build(x, fingerprint=retrieval.content_fingerprint(x))
assert (index.search(x, k=3)[1][:, 0] == found[:, 0]).all()
assert retrieval.evaluate(x, None, y).values["map"] > 0.5
assert retrieval.PCAWhitening(4).fit(x).transform(x).shape == (len(x), 4)
