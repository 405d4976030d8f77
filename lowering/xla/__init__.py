"""The XLA lowering: ONNX operators as JAX, StableHLO for any XLA device, executables for TPU."""
