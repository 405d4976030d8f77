"""Builders of the generated sample models, one file per family, on the graph builder in `torch_graph`."""
