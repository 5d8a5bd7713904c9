"""Maps of single classes that come out of the forward pass: CAM and LayerCAM."""

from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limelight.explanations.map_request import MapRequest


def class_map(output: str) -> Callable[[MapRequest], Coroutine[Any, Any, NDArray[np.float32]]]:
    """Create the method that reads the map of the class from `output`, (K, h, w)."""

    async def explain(request: MapRequest) -> NDArray[np.float32]:
        values_hw: NDArray[np.float32] = request.outputs[output][request.index]
        return values_hw

    return explain
