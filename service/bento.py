"""The BentoML service: `bentoml serve` and `bentoml build` find it through pyproject.toml."""

import logging
import os

# Serving somebody's images is nobody else's business: BentoML reports usage unless told not to,
# and takes only this spelling for a no.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")

from typing import Any

import bentoml
from starlette.types import ASGIApp

from service.app import Application
from service.metrics import Metrics
from service.settings import Settings

# Read here, so that a setting that makes no sense stops `bentoml serve` instead of its workers.
settings = Settings()


class OwnApplication(bentoml.Service[Any]):  # type: ignore[misc]  # BentoML has no types here
    """A service whose workers run our application and none of BentoML's middleware.

    That middleware costs ten times what a request of ours does (tracing, access log, metrics
    whose labels clients choose), and turns bad images into 500s.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Called once in each worker."""
        self.inject_config()
        logging.getLogger("limelight").setLevel(logging.INFO)
        return Application(settings, Metrics())


@bentoml.service(name="limelight", service_class=OwnApplication, workers=1)
class Limelight:
    """Image classifiers that show what they looked at."""
