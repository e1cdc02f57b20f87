"""Questions asked of frozen features: linear probes now; kNN, few-shot, dense and OOD scores build here."""
