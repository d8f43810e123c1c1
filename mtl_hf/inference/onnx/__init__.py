"""Exported models: one ONNX graph of the encoder and all heads, answered without torch and without transformers."""
