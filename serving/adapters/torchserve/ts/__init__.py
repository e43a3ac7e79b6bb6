"""``ts``, TorchServe's package, as this server has it."""
