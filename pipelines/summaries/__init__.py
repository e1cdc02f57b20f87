"""What reads results alone."""
