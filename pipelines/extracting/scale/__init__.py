"""Many processes, here or on a cluster, extract for one run."""
