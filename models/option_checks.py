"""No choice in `NetworkOptions` goes without an effect."""

from dataclasses import fields

from models.options import NetworkOptions

DEFAULTS = {field.name: field.default for field in fields(NetworkOptions)}


def refuse(options: NetworkOptions, *names: str) -> None:
    """Refuse choices that the architecture would ignore.

    Raises:
        ValueError: naming the first option of `names` that is not at its default.

    """
    for name in names:
        value = getattr(options, name)
        if value != DEFAULTS[name]:
            raise ValueError(
                f"{options.architecture} takes no {name} (it is {value!r}); leave it out"
            )
