"""The lowering to TensorRT for RTX: engines for named compute capabilities, built without a GPU."""
