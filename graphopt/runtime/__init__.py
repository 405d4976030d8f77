"""Sessions: running compiled models."""
