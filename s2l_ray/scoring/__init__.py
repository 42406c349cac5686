"""Losses at checkpoints, and the trajectories made from them."""
