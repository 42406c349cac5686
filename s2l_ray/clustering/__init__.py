"""k-means over a pool of actors, and the stage around it."""
