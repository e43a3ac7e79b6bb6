"""TorchServe archives: their manifest and ``model-config.yaml``. Imports no torch."""
