"""Finding the files of a corpus, and reading them: one module per format."""
