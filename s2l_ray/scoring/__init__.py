"""Losses at checkpoints, and the trajectories made from them."""

CACHED_BYTES = 1 << 28  # of token parts that an actor keeps for the next checkpoints
