"""Probes of the feature sets in a store: which sets, which task, the results kept, comparisons and tables."""
