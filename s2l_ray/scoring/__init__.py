"""Losses at checkpoints, and the trajectories made of them."""
