"""Post-hoc out-of-distribution scores of cached features and logits, and how well they separate two sets."""
