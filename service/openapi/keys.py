"""API keys in the OpenAPI document of a service that asks for them."""

from service.access.routes import SCOPES, open_routes
from service.errors import PermissionDenied, RateLimited, Unauthenticated
from service.oip.rest import ROOT
from service.openapi import oip
from service.openapi.parts import Json, problems
from service.settings import Settings

_SCHEMES: Json = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
_EITHER: list[Json] = [{"bearer": []}, {"header": []}]
_REFUSALS = (Unauthenticated, PermissionDenied, RateLimited)


def with_keys(tree: Json, settings: Settings) -> Json:
    """Add to a document the keys, the routes that need one, and the refusals; return it."""
    tree["components"]["securitySchemes"] = _SCHEMES
    tree["security"] = _EITHER
    public = open_routes(public_page=settings.public_page, public_metrics=settings.public_metrics)
    for path, item in tree["paths"].items():
        for operation in item.values():
            if "responses" not in operation:
                continue
            if path in public:
                operation["security"] = []
                continue
            refusals = oip.errors_of if path.startswith(ROOT) else problems
            operation["responses"] |= refusals(*_REFUSALS)
            scopes = SCOPES.get(path)
            if scopes is not None:
                text = f"Needs a key with the scope `{'` or `'.join(scopes)}`."
                described = operation.get("description")
                operation["description"] = text if described is None else f"{described} {text}"
    return tree
