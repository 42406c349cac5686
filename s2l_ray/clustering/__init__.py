"""k-means over an actor pool, and the stage around it."""
