"""Run an artifact's graphs with ONNX Runtime."""
