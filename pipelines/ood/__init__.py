"""Out-of-distribution detection from the feature sets in a store: which sets, the results kept, table and page."""
