"""Turn images into feature sets: backbones, datasets, preprocessing, planning and the engine."""
