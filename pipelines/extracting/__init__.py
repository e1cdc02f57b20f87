"""What writes feature sets: of images and of texts."""
