"""Find the attention heads whose calibration helps a model, on training documents, before any evaluation."""
