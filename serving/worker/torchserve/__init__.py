"""TorchServe's conventions: what its handlers are given, what they answer, and the names that they import."""
