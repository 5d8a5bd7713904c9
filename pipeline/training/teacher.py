"""Description of a model to distil from, as a run's configuration has it."""

from pydantic import BaseModel, ConfigDict

from models.normalization import Normalisation
from models.options import NetworkOptions


class Teacher(BaseModel):
    """Description of a trained model to distil from, without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    network: NetworkOptions
    normalisation: Normalisation
