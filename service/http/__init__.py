"""The HTTP edge: requests, parameters, responses and the files of the page."""
