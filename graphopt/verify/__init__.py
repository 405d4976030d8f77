"""Verification: feeds, a reference to run them on, and the comparison of results."""
