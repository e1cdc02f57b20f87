"""Templates and class texts by name or file, and the prompts that a dataset's classes make of them.

Shapes: K classes, T templates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from featurebank.extract.opening import open_regular
from featurebank.extract.texts import Prompts
from featurebank.pipelines.errors import ConfigError
from featurebank.probes.prompts import IMAGENET_TEMPLATES, PLAIN_TEMPLATE, READABLE, readable, render_prompts
from featurebank.store.places import expanded

__all__ = ["TEMPLATES", "make_prompts", "prompts_name", "read_templates", "rooted_templates"]

TEMPLATES: Final = ("simple", "ensemble", "openai")
"""``a photo of a {}.``; the seven of OpenAI's notebook; the eighty for ImageNet, as open_clip has them."""
MAX_BYTES: Final = 4 << 20
MAX_TEMPLATES: Final = 1000
MAX_CHARACTERS: Final = 500
_WORDNET = re.compile(r"n\d{8}")


def make_prompts(class_names: Sequence[str], *, templates: str = "simple", classes: Path | None = None) -> Prompts:
    """Every class in every template.

    Args:
        class_names: K, as the dataset has them; none where it names none, which then needs ``classes``.
        templates: one of `TEMPLATES`, or a text file with a template a line.
        classes: a text file with what each class is called in prompts, a line a class, in the order of the classes.

    Raises:
        ConfigError: a file that cannot be used, or class names that no text can be made of.
    """
    lines = read_templates(templates)
    texts = [*class_names] if classes is None else _lines(classes, "a class a line")
    if not texts:
        raise ConfigError("the dataset names no classes; say what they are called: --class-names FILE, a line a class")
    if class_names and len(texts) != len(class_names):
        raise ConfigError(
            f"{classes}: expected a line for each of the {len(class_names)} classes, in their order; found {len(texts)}"
        )
    words = [readable(text) for text in texts]
    advice = "write what the classes are called into a file, a line a class: --class-names FILE"
    if empty := [text for text, word in zip(texts, words, strict=True) if not word]:
        raise ConfigError(f"a class must be called something; found {empty[0]!r}; {advice}")
    if len(longest := max(words, key=len)) > MAX_CHARACTERS:
        raise ConfigError(
            f"a class must be called by at most {MAX_CHARACTERS} characters; found {len(longest):,}, {longest[:40]!r}…"
        )
    if all(_WORDNET.fullmatch(word) for word in words):
        raise ConfigError(f"classes must be called by words; found WordNet's numbers, such as {words[0]!r}; {advice}")
    return Prompts(
        name=prompts_name(templates, classes),
        class_names=tuple(class_names),
        templates=lines,
        texts=tuple(map(tuple, render_prompts(words, lines))),
        rule=READABLE if classes is None else f"those of a file; {READABLE}",
    )


def rooted_templates(templates: str, folder: Path) -> str:
    """Templates whose relative path, if they are a file, is taken from a folder."""
    return templates if templates in TEMPLATES else str(folder / expanded(templates))


def prompts_name(templates: str, classes: Path | None) -> str:
    """What prompts are called behind ``texts-``: by the templates, and by the file of class texts where there is one.

    >>> prompts_name("simple", None), prompts_name("dir/my sketches.txt", Path("words.txt"))
    ('simple', 'my_sketches-words')
    """
    names = [templates if templates in TEMPLATES else expanded(templates).stem]
    names += [] if classes is None else [classes.stem]
    return "-".join(re.sub(r"[^\w.+-]", "_", name)[:64] for name in names)


def read_templates(templates: str) -> tuple[str, ...]:
    """T templates by name, or those in a file.

    Raises:
        ConfigError: no such name or file, or one that holds something else.
    """
    if templates == "simple":
        return (PLAIN_TEMPLATE,)
    if templates == "ensemble":
        return IMAGENET_TEMPLATES
    if templates == "openai":
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES  # type: ignore[import-untyped]

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    path = expanded(templates)
    if not path.exists():
        raise ConfigError(
            f"templates must be one of {', '.join(TEMPLATES)}, or a file with a template a line; found {templates!r}"
        )
    lines = tuple(line.replace("{c}", "{}") for line in _lines(path, "a template a line, such as 'a photo of a {}.'"))
    for number, line in enumerate(lines, 1):
        if line.count("{}") != 1 or len(line) > MAX_CHARACTERS:
            raise ConfigError(
                f"{path}: a template must have exactly one {{}} for the class and at most {MAX_CHARACTERS} characters; "
                f"found {line[:80]!r} as number {number}"
            )
    if len(lines) > MAX_TEMPLATES or len({*lines}) < len(lines):
        raise ConfigError(
            f"{path}: expected at most {MAX_TEMPLATES:,} templates, each once; found {len(lines):,}, "
            f"{len({*lines}):,} of them different"
        )
    return lines


def _lines(path: Path, expected: str) -> list[str]:
    """The lines of a text file that are not blank."""
    try:
        with open_regular(path, MAX_BYTES) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected a text file in UTF-8, {expected}; found: {error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines or any("\0" in line for line in lines):
        raise ConfigError(f"{path}: expected {expected}; found {'no line' if not lines else 'binary data'}")
    return lines
