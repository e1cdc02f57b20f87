"""Retrieval on cached features."""
