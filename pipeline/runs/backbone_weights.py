"""Initialise the features of a run from a file of weights, as timm and torchvision publish them."""

import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import RunError
from pipeline.runs.run_plan import RunPlan
from pipeline.runs.tensor_files import parse_tensors
from pipeline.training.recipe import Recipe
from pipeline.training.weights import Weights, copied, make_network

# Share of a network's tensors. In a network for grey images the first layer misfits.
_MOST_MISFITS = 0.1
_NAMED_MISFITS = 4
# Counted by BatchNorm for its own use, and absent from older files.
_UNNEEDED = "num_batches_tracked"


@dataclass(frozen=True, kw_only=True, slots=True)
class BackboneWeights:
    """Weights of a network's features, and the record of the file that they are from."""

    weights: Weights
    """By their names in the network; those of the head are missing."""
    record: str
    """Name of the file without its folder, and its SHA-256."""


def read_backbone_weights(
    file: Path, recipe: Recipe, *, channels: int, classes: int
) -> BackboneWeights:
    """Read the weights in `file` that belong to the features of the recipe's network.

    The file is in the safetensors format, or a state dict that `torch.save` wrote; nothing in it is
    executed. A state dict may be the entry `state_dict` or `model` of another one, and its names
    may have a prefix.

    Raises:
        RunError: the file cannot be read, the network is none of timm's or torchvision's, or more
            than a tenth of its tensors do not fit.

    """
    network = make_network(recipe, channels=channels, classes=classes)
    architecture, state = recipe.network.architecture, network.state_dict()
    if not network.published_names:
        raise RunError(
            f"{architecture} takes no file of weights: choose an --arch timm:NAME or "
            "torchvision:NAME; a model of Limelight is for limelight finetune --from"
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}") from error
    own = {published: state[name] for published, name in network.published_names.items()}
    found = _without_prefix(_tensors(content, file), own)
    misfits = _misfits(found, own)
    if len(misfits) > _MOST_MISFITS * len(own):
        fitting = sum(name in found and name not in misfits for name in own)
        listed = "; ".join(list(misfits.values())[:_NAMED_MISFITS])
        raise RunError(
            f"{file}: {fitting} of the {len(own)} tensors of {architecture} fit, which are too few "
            f"or of another network; the first that do not: {listed}. Give weights of this network"
        )
    weights = {
        network.published_names[name]: found[name].to(tensor.dtype)
        for name, tensor in own.items()
        if name in found and name not in misfits
    }
    digest = hashlib.sha256(content).hexdigest()
    return BackboneWeights(weights=copied(weights), record=f"{file.name} sha256:{digest}")


def initialise_from_file(plan: RunPlan, file: Path) -> RunPlan:
    """Initialise the features of the run from the weights in `file`; its head is new.

    Raises:
        RunError: see `read_backbone_weights`; or the run is initialised from something else.

    """
    config = plan.config
    if plan.initial is not None or config.recipe.network.pretrained:
        raise RunError("a run is initialised from one source: leave out --weights or the other one")
    channels = plan.dataset.train.images.shape[3]
    found = read_backbone_weights(
        file, config.recipe, channels=channels, classes=len(config.classes)
    )
    recipe = config.recipe.but(network__weights=found.record)
    return replace(plan, initial=found.weights, config=config.model_copy(update={"recipe": recipe}))


def _tensors(content: bytes, file: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a safetensors file or of a state dict, by name."""
    if file.suffix.lower() == ".safetensors":
        return parse_tensors(content, str(file))
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own advice is to execute the file.
        raise RunError(
            f"{file} is no state dict, or holds more than tensors, which is never executed: save "
            "model.state_dict(), or a .safetensors file"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise RunError(f"{file} is damaged, or no file of weights: save it again") from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise RunError(f"{file} holds no state dict: save model.state_dict()")
    return {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}


def _without_prefix(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """Remove the prefix of all names, such as `module.`, with which the most names are in `own`."""
    first = next(iter(own))
    prefixes = {""} | {name.removesuffix(first) for name in tensors if name.endswith(first)}
    renamed = (
        {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }
        for prefix in sorted(prefixes)
    )
    return max(renamed, key=lambda names: len(names.keys() & own.keys()))


def _misfits(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
    """Say of each tensor that does not fit why, by name; heads of the file do not count."""
    parts = {name.partition(".")[0] for name in own}
    misfits = {}
    for name, tensor in own.items():
        if name not in found:
            misfits[name] = f"{name} is missing"
        elif found[name].shape != tensor.shape:
            misfits[name] = f"{name} is {_size(found[name])} instead of {_size(tensor)}"
    for name in found:
        if name not in own and name.partition(".")[0] in parts:
            misfits[name] = f"{name} is of no layer in the network"
    return {name: why for name, why in misfits.items() if not name.endswith(_UNNEEDED)}


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
