"""The questions: one file or folder each, which declares itself; see `featurebank.pipelines.asking.question`."""
