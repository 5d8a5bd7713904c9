"""Errors of the clients.

ClientError
├── RefusedError        the service rejected the request, or another server answered
└── UnreachableError    no answer arrived in time
"""


class ClientError(Exception):
    """Base class of the client's errors; the message says why there is no result."""


class RefusedError(ClientError):
    """The service rejected the request.

    `code` is the service's stable error code (such as `undecodable_image`); `detail` says what to
    do. The code of an answer that is not one of this service is `unknown`.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{detail} ({status} {code})")
        self.status, self.code, self.detail = status, code, detail


class UnreachableError(ClientError):
    """No answer arrived within the timeout and the number of attempts."""
