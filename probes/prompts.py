"""Prompts: class names as a text tower shall read them, in templates. Needs no package but the standard library.

Shapes: K classes, T templates.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

__all__ = ["IMAGENET_TEMPLATES", "PLAIN_TEMPLATE", "READABLE", "readable", "render_prompts"]

PLAIN_TEMPLATE = "a photo of a {}."
IMAGENET_TEMPLATES = (  # the short list of OpenAI's notebook "Prompt Engineering for ImageNet"
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
READABLE = "underscores, control characters and line ends are blanks; runs of blanks are one"
"""What `readable` does, for a record of it."""
_BLANKS = frozenset({"Cc", "Zl", "Zp", "Zs"})


def readable(class_name: str) -> str:
    r"""A class name as a person would write it: underscores and control characters are blanks, runs of these are one.

    >>> readable("great_white_shark"), readable("T-shirt/top"), readable(" \tcrème  brûlée")
    ('great white shark', 'T-shirt/top', 'crème brûlée')
    """
    return " ".join("".join(" " if c == "_" or unicodedata.category(c) in _BLANKS else c for c in class_name).split())


def render_prompts(class_names: Sequence[str], templates: Sequence[str] = (PLAIN_TEMPLATE,)) -> list[list[str]]:
    """Each class name in each template: K lists of T prompts, as text towers take them.

    >>> render_prompts(["cat"], ["a photo of a {}.", "art of the {}."])
    [['a photo of a cat.', 'art of the cat.']]

    Args:
        class_names: K names.
        templates: T texts with exactly one ``{}``.

    Raises:
        ValueError: no class, no template, a single string where a list belongs, or a template without one ``{}``.
    """
    for name, texts in (("class_names", class_names), ("templates", templates)):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"{name} must be a list of at least one string; found {texts!r}")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"a template must have exactly one {{}} for the class name; found {template!r}")
    return [[template.replace("{}", name) for template in templates] for name in class_names]
