"""Jobs: what reads images again to train or to time networks, and answers like a question."""
