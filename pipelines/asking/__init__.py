"""What a question to cached features is, and everything that follows from its declaration."""
