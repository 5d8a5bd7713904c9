"""Training: data, recipes, training, evaluation, calibration, export and the command line."""

import sys
from pathlib import Path

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
