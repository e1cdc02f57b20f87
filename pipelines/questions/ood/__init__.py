"""Out-of-distribution detection: every post-hoc score of cached features."""

from featurebank.pipelines.questions.ood.question import OOD as OOD
