"""Which backbone for a folder of images: a race on nested parts of it, and how sure its end is."""
