"""One fine-tuning loop for proxy and target: engines, batches, checkpoints."""
