"""What the ways of taking gradients cost, and where they break: `adjoints.py`."""
