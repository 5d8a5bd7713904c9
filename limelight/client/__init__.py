"""A typed client of the service, with and without `await`."""
