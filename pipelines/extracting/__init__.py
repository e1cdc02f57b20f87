"""The batch run: from a configuration to sealed feature sets and answers."""
