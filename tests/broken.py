"""Models as people break them in their first hour, each with what its server is to say of it last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

HANDLER = """import torch
from serving import Handler


class Digits(Handler):
    def load(self, model_dir, device, scale: float = 1.0, size: int = 8):
        self.net = torch.nn.Linear(2, 2)
{load}

    def predict(self, batch):
        return batch

    def warmup(self):
{warmup}
"""


def handler(load: str = "pass", warmup: str = "pass") -> str:
    return HANDLER.format(load=f"        {load}", warmup=f"        {warmup}")


CLASS = "from serving import Handler\n\nclass Digits(Handler):\n"


class Broken(NamedTuple):
    """``files`` of the model beside a good ``code/digits.py`` and ``weights.pth``; None removes one. The last line has
    each of ``said``."""

    said: tuple[str, ...]
    toml: str = 'handler = "digits:Digits"\n'
    files: Mapping[str, str | None] = {}
    code: int = 1
    environment: Mapping[str, str] = {}


def digits(text: str) -> dict[str, str | None]:
    return {"code/digits.py": text}


QUICK = {
    "handler with a dot": Broken(("handler is 'digits.Digits'", "module:Class"), 'handler = "digits.Digits"\n'),
    "a setting that is none": Broken(
        ("SERVING_BATCHSIZE='3'", "did you mean SERVING_BATCH_SIZE?"), code=2, environment={"SERVING_BATCHSIZE": "3"}
    ),
    "an empty folder": Broken(("holds no model", "serving.toml", "found nothing"), "", {"code/digits.py": None}),
    "no folder": Broken(("model folder", "does not exist"), environment={"SERVING_MODEL_DIR": "/nowhere/at/all"}),
    "serving.toml that is no TOML": Broken(("serving.toml",), "handler = \n"),
    "serving.toml with another key": Broken(("serving.toml", "max_sizes"), "[batch]\nmax_sizes = 3\n"),
    "serving.toml with another type": Broken(("serving.toml", "max_size"), '[batch]\nmax_size = "3"\n'),
}
IMPORTED = {
    "syntax": Broken(("code/digits.py:2", "SyntaxError", "invalid syntax"), files=digits("import torch\ndef = 3\n")),
    "module that is not there": Broken(
        ("handler digit:Digits", "No module named 'digit'", "code/", "did you mean digits?"),
        'handler = "digit:Digits"\n',
    ),
    "import that is not there": Broken(
        ("code/digits.py:3", "No module named 'nothere'", "requirements.txt"),
        files=digits("import torch\n\nimport nothere\n"),
    ),
    "import of a name that is not there": Broken(
        ("code/digits.py:1", "ImportError", "Handlr"), files=digits("from serving import Handlr\n")
    ),
    "class that is not there": Broken(
        ("code/digits.py has no Digit", "did you mean Digits?"), 'handler = "digits:Digit"\n'
    ),
    "class that is no handler": Broken(
        ("code/digits.py:6", "Plain is a class", "subclass of serving.Handler", "there is Digits"),
        'handler = "digits:Plain"\n',
        digits("from serving import Handler\n\nclass Digits(Handler):\n    pass\n\nclass Plain:\n    pass\n"),
    ),
    "option that load does not take": Broken(
        ("scal", "code/digits.py:6", "did you mean scale?", "scale, size"),
        'handler = "digits:Digits"\n[options]\nscal = 2.0\n',
    ),
    "predict that is misspelled": Broken(
        ("code/digits.py:3", "Digits defines neither predict nor converse", "did you mean `predict` for `pedict`?"),
        files=digits(f"{CLASS}    def pedict(self, batch): return batch\n    def helper(self): pass\n"),
    ),
    "converse that is misspelled": Broken(
        ("code/digits.py:3", "did you mean `converse` for `convrese`?"),
        files=digits(f"{CLASS}    async def convrese(self, stream): pass\n"),
    ),
    "no predict at all": Broken(
        ("code/digits.py:3", "neither predict nor converse", "its own methods are run"),
        files=digits(f"{CLASS}    def run(self): pass\n    def decode(self, request): pass\n"),
    ),
    "predict that takes no batch": Broken(
        ("code/digits.py:4", "Digits.predict: too many", "expected predict(self, batch), not predict(self)"),
        files=digits(f"{CLASS}    def predict(self): return 1\n"),
    ),
    **{
        f"{name} that takes too much": Broken(
            (f"code/digits.py:5: Digits.{name}: missing a required argument", f"not {name}(self, a, b, more)"),
            files=digits(f"{CLASS}    predict = abs\n    {word}def {name}(self, a, b, more): pass\n"),
        )
        for name, word in (
            *((name, "") for name in ("decode", "encode", "collate", "split", "bucket", "on_session_open", "close")),
            ("converse", "async "),
        )
    },
    "predict that is no function": Broken(
        ("Digits.predict is int, which cannot be called",), files=digits(f"{CLASS}    predict = 3\n")
    ),
    "load that is async": Broken(
        ("code/digits.py:4", "Digits.load", "coroutine"),
        files=digits("from serving import Handler\n\nclass Digits(Handler):\n    async def load(self, *a): pass\n"),
    ),
}
DEFINED = {
    "handler that is a path": Broken(
        ("serving.toml, line 1", "handler is '../digits:Digits'", "module:Class"), 'handler = "../digits:Digits"\n'
    ),
    "handler that is relative": Broken(
        ("serving.toml, line 1", "handler is '.digits:Digits'", "module:Class"), 'handler = ".digits:Digits"\n'
    ),
    "__init__ that takes an argument": Broken(
        ("code/digits.py:4: Digits.__init__() missing 1 required", "argument: 'a'; expected __init__(self)"),
        files=digits(f"{CLASS}    def __init__(self, a): pass\n    def predict(self, batch): return batch\n"),
    ),
    "error in __init__": Broken(
        ("TypeError: unsupported operand", "code/digits.py:5 in __init__"),
        files=digits(f"{CLASS}    predict = abs\n    def __init__(self): 1 + ''\n"),
    ),
    "policy that is none": Broken(
        ("code/digits.py:5: Digits.policy is 5", "serving.BatchPolicy"),
        files=digits(f"{CLASS}    predict = abs\n    policy = 5\n"),
    ),
    "policy that is none, from __init__": Broken(
        ("code/digits.py:6: Digits.policy is {'max_size': 3}", "serving.BatchPolicy"),
        files=digits(f"{CLASS}    predict = abs\n    def __init__(self):\n        self.policy = {{'max_size': 3}}\n"),
    ),
    "policy that is none, from load": Broken(
        ("code/digits.py:6: Digits.policy is None", "serving.BatchPolicy"),
        files=digits(f"{CLASS}    predict = abs\n    def load(self, *a):\n        self.policy = None\n"),
    ),
    **{
        f"{name} that is {value}": Broken(
            (f"code/digits.py:5: Digits.{name} is {value}", "a tuple"),
            files=digits(f"{CLASS}    predict = abs\n    {name} = {value}\n"),
        )
        for name in ("post_paths", "websocket_paths")
        for value in ("'/x'", "5", "None")
    },
    "a path that is the server's": Broken(
        ("code/digits.py:5: '/ping' of Digits is the server's own",),
        files=digits(f"{CLASS}    predict = abs\n    post_paths = ('/ping',)\n"),
    ),
    "a NUL byte": Broken(("code/digits.py:3", "NUL"), files=digits("import os\n\nx = '\0'\n")),
    "a NUL byte in another module": Broken(
        ("code/other.py:2", "NUL"), files={**digits("import other\n"), "code/other.py": "\n# \0\n"}
    ),
}
LOADED = {
    "weights that are not there": Broken(
        ("FileNotFoundError", "weights.pt", "did you mean weights.pth?", "code/digits.py:8 in load"),
        files=digits(handler('torch.load(model_dir / "weights.pt")')),
    ),
    "state dict that does not fit": Broken(
        ("loading state_dict for Linear", 'Missing key(s) in state_dict: "weight", "bias"', "code/digits.py:8 in load"),
        files=digits(handler('self.net.load_state_dict({"w": torch.zeros(3)})')),
    ),
    "warmup that raises": Broken(
        ("ValueError: no such shape", "code/digits.py:14 in warmup"),
        files=digits(handler(warmup='raise ValueError("no such shape")')),
    ),
    "script that raises": Broken(
        ("KeyError: 'net'", "code/inference.py:2 in model_fn"),
        "",
        {"code/inference.py": "def model_fn(model_dir):\n    return {}['net']\n"},
    ),
    "script whose syntax is wrong": Broken(
        ("SyntaxError", "code/inference.py:1"), "", {"code/inference.py": "def model_fn(model_dir:\n"}
    ),
    "ready handler without weights": Broken(
        ("expected one *.pt, *.pth or *.pt2 file",),
        'handler = "handlers.image_classification:ImageClassificationHandler"\n',
        {"weights.pth": None},
    ),
    "ready handler with another option": Broken(
        ("top_k", "did you mean topk?"),
        'handler = "handlers.image_classification:ImageClassificationHandler"\n[options]\ntop_k = 3\n',
    ),
    "handler whose predict must be alone": Broken(
        ("Digits.predict", "max_size"),
        files=digits("from serving import Handler\n\nclass Digits(Handler):\n    def predict(self, b): yield b\n"),
    ),
}


def folder_of(tmp_path: Path, broken: Broken) -> Path:
    folder = tmp_path / "model"
    files = {"code/digits.py": handler(), "weights.pth": "", "serving.toml": broken.toml or None, **broken.files}
    if broken.files.get("code/digits.py", "") is None:
        files["weights.pth"] = None
    for name, text in files.items():
        if text is not None:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    folder.mkdir(exist_ok=True)
    return folder
