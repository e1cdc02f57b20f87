"""The rows of one set are looked for in another, or each among the others of its own."""

from featurebank.pipelines.questions.retrieve.question import Retrieve

__all__ = ["Retrieve"]
