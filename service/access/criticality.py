"""Header `X-Criticality`: how much a request matters to its client."""

from collections.abc import Mapping

from limelight.errors import InvalidParameter
from service.caller import CRITICALITIES, Criticality
from service.request_context import RequestContext


def read_criticality(headers: Mapping[bytes, bytes], context: RequestContext) -> None:
    """Set the criticality of a request, which is at most that of its caller's key.

    Raises:
        InvalidParameter: the header has another value.
    """
    text = headers.get(b"x-criticality")
    if text is None:
        return
    wanted = text.decode("latin-1").lower()
    for criticality in CRITICALITIES:
        if wanted == criticality:
            context.criticality = _lower(criticality, context.caller.criticality)
            return
    raise InvalidParameter(
        f"X-Criticality is {wanted[:100]!r}, and must be one of {', '.join(CRITICALITIES)}"
    )


def _lower(first: Criticality, second: Criticality) -> Criticality:
    return min(first, second, key=CRITICALITIES.index)
