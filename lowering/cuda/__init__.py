"""The lowering to ONNX Runtime's providers: which options, which node runs where, and why."""
