"""Readers of official layouts, one module a family; the manifest ``zoo.toml`` names them as ``module.function``."""
