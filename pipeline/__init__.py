"""Training: data, recipes, training, evaluation, calibration, export and the command line.

`train`, `finetune`, `resume`, `lr_find` and `export` do from Python what the commands do. They are
imported on first use, because torch takes seconds to import.
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# `python -m pipeline` looks for modules in the working folder first, where a user's own folder
# `models` would be imported instead of ours. While Python imports this package for `-m`, that is
# the first argument.
if (
    sys.argv[:1] == ["-m"]
    and not sys.flags.safe_path
    and sys.path[0] != str(Path(__file__).parents[1])
):
    del sys.path[0]

# Before ONNX Runtime, whose reports of usage it turns off.
import limelight as limelight

if TYPE_CHECKING:
    from pipeline.api import export, finetune, lr_find, resume, train

__all__ = ["export", "finetune", "lr_find", "resume", "train"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises:
        AttributeError: the package has no such name.

    """
    if name not in __all__:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    return getattr(import_module("pipeline.api"), name)
