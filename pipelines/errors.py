"""The error of a configuration or a command that cannot be used."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(ValueError):
    """A configuration that cannot be used: where, what was expected, what was found."""
