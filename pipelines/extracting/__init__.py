"""What writes feature sets: the batch run, from a configuration to sealed sets and answers, and text features."""
