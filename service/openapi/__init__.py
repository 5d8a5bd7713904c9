"""OpenAPI document of the service."""
