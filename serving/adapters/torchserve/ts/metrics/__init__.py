"""A name of TorchServe's, as this server has it."""
