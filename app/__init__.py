"""seq2serve: train sequence-to-sequence models, export them to ONNX and serve them."""

__version__ = "0.1.0"
