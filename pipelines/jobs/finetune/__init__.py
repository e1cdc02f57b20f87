"""Fine-tuning: a backbone trained on a set, from the probe that the store has of it."""
