"""Retrieval in the feature sets of a store: which sets, what is relevant, the ranking, results, tables and pages."""
