"""Replaying: what the command ``serving replay`` does, and says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from serving.config.config import Config
from serving.desk.replay import Replay, Trial, file_of, guilty, lines_of
from serving.errors import ModelError
from serving.postmortem.recording import read


def run(path: Path, config: Config, bisect: bool, sync: bool, folder: Path | None, say: Callable[[str], None]) -> bool:
    """Run the recording at ``path`` again, and its halves where that fails and ``bisect`` says so. Returns whether all
    went well. Raises ModelError, OSError.
    """
    file = file_of(path)
    recording = read(file)
    if folder is None and not Path(recording.model.path).is_dir():
        raise ModelError(f"the model is not at {recording.model.path} any more: give --model FOLDER")
    replay = Replay(recording, file, config.load_timeout, folder, sync)
    everybody = range(len(recording.requests))
    say(f"report {recording.report}: {len(everybody)} requests of model {recording.model.name}")
    trial = replay.run(everybody)
    for line in lines_of(recording, everybody, trial):
        say(line)
    if trial.is_good:
        say("all of it went well")
        return True
    say(trial.said)
    if bisect:
        trials: dict[tuple[int, ...], Trial] = {tuple(everybody): trial}

        def fails(members: Sequence[int]) -> bool:
            found = trials[tuple(members)] = replay.run(members)
            say(f"{len(members)} of them: {'well' if found.is_good else 'failed'}")
            return not found.is_good

        for members in guilty(everybody, fails):
            say("at fault:" if len(members) == 1 else "at fault, but only together:")
            for line in lines_of(recording, members, trials[tuple(members)]):
                say(f"  {line}")
    return False
