"""HTTP interface: requests, parameters, responses and static files."""
