"""Experiment trackers: TensorBoard, MLflow, Weights & Biases (`trackers` in the configuration)."""
