"""Lowerings from the optimised graph to a target: XLA (CPU, GPU, TPU) and ONNX Runtime / TensorRT."""

if __name__ != "graphopt.lowering":
    raise ImportError(f"import graphopt.lowering, not {__name__!r}")
