"""The stages of a run: what is done, what is to do, and the straight lines over them."""
