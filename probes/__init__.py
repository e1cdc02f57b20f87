"""Questions asked of frozen features: linear, kNN, few-shot, zero-shot, multi-label, dense; how sure they are."""
