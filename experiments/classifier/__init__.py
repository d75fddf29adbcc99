"""The classifier of handwritten digits: its settings, training, files and scores."""
