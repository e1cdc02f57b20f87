"""Semantic segmentation with a backbone of the zoo, frozen or tuned."""
