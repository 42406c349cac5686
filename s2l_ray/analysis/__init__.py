"""Statistics, paired differences, stability, gradients and the theorem, cost."""
