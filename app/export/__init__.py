"""From a PyTorch model to the two ONNX graphs of an artifact, with the gates that they must pass."""
