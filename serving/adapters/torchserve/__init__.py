"""What a TorchServe archive says about itself: its manifest and its ``model-config.yaml``. Imports no torch."""
