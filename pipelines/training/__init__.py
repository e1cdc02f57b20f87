"""The trainer that fine-tuning and detection share: one exactly resumable loop that knows neither images nor boxes."""
