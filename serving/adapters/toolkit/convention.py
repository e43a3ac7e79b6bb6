"""Toolkit: scripts of SageMaker's inference toolkits, ``code/inference.py`` or the file of the setting ``program``."""

from __future__ import annotations

from serving.adapters.convention import Choice, Convention, Folder


class Toolkit(Convention):
    name = "toolkit"
    title = "a script of SageMaker's inference toolkits"
    handler = "serving.adapters.toolkit.handler:ToolkitHandler"
    files = ("code",)

    def matches(self, folder: Folder) -> bool:
        return folder.script.is_file()

    def read(self, folder: Folder) -> Choice:
        config = folder.config
        options = {"script": str(folder.script), "default_accept": config.default_accept, **sizes(folder)}
        return Choice(self.handler, options)


def sizes(folder: Folder) -> dict[str, bool]:
    """Return whether a batch size was chosen, and whether samples are stacked.

    The toolkits' own variable does not mean stacking: with it each request of a batch runs alone.
    """
    chosen = folder.config.batch_size is not None
    theirs = folder.config.sources["batch_size"].startswith("environment SAGEMAKER_")
    in_file = folder.settings.batch.max_size is not None
    return {"sized": in_file or chosen, "stacks": in_file or (chosen and not theirs)}
