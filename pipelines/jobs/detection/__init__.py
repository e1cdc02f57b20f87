"""Detection and instance segmentation with a backbone of the zoo, frozen or tuned."""
