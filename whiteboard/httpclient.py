"""One request over a kept connection: what the clients of all demos and traffic generators send with."""

import http.client


class Connection(http.client.HTTPConnection):
    """A connection to a service of ours; every request has the API key, if there is one."""

    def __init__(self, host: str, port: int, *, timeout_s: float = 10.0, api_key: str = "") -> None:
        super().__init__(host, port, timeout=timeout_s)
        self.headers = {"x-api-key": api_key} if api_key else {}


def exchange(connection: Connection, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of the answer. A kept connection that the server has closed meanwhile is opened anew, once."""
    reused = connection.sock is not None
    headers = connection.headers | ({"Content-Type": "application/json"} if body is not None else {})
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
    except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
        connection.close()
        if not reused:
            raise
        connection.request(method, path, body, headers)
        response = connection.getresponse()
    return response.status, response.read()
