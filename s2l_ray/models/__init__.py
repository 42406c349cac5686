"""Loading a model, the loss at label tokens, and other signals of a forward pass."""
