"""One request over a kept connection: what the clients of all demos and traffic generators send with."""

import http.client


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    """Status and body of the answer. A kept connection that the server has closed meanwhile is opened anew, once."""
    reused = connection.sock is not None
    headers = {"Content-Type": "application/json"} if body is not None else {}
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
