"""Analyses of a graph that change nothing: cost, by node and in all."""
