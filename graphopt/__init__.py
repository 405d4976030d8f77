"""graphopt: a computation-graph compiler for ONNX models."""

__version__ = "0.1.0"
