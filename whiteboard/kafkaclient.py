"""The client library's connections, which tell why no broker let them in.

    KafkaAdminClient(**config, kafka_client=TellingClient)
    SaslAuthenticationFailedError: Authentication failed … due to invalid credentials with SASL mechanism SCRAM-SHA-512

By itself the library tries again until its time is over, whatever the reason, and then says only that it was in vain.
What will not change by trying again (credentials, a certificate) ends it at once here, as long as no broker has let
the client in. A client that was not let in leaves no thread and no socket behind, as the library's own would.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

CREDENTIALS_REFUSED = (errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)


class TellingClient(KafkaNetClient):  # type: ignore[misc]
    """What the parameter `kafka_client` of every kafka-python client takes."""

    def __init__(self, **configs: Any) -> None:
        net = NetworkSelector(**configs)
        super().__init__(net, _Connections(net, **configs), **configs)


class _Connections(KafkaConnectionManager):  # type: ignore[misc]
    _let_in = False
    _failure: BaseException | None = None  # of the newest connection that could not be made

    def get_connection(self, *arguments: Any, **options: Any) -> Any:
        if self._failure is not None and _is_final(self._failure) and not self._let_in:
            raise self._failure
        connection = super().get_connection(*arguments, **options)
        connection.init_future.add_callback(self._succeeded).add_errback(self._failed)
        return connection

    async def _build_transport(self, *arguments: Any, **options: Any) -> Any:
        transport = await super()._build_transport(*arguments, **options)
        transport._sock_recv = partial(_last_words_first, transport._sock_recv)
        return transport

    def bootstrap(self, *arguments: Any, **options: Any) -> None:
        try:
            super().bootstrap(*arguments, **options)
        except errors.KafkaError as error:
            if not self._let_in:  # there will be no client that could be closed: its thread and sockets would stay
                self.close()
                self._net.close()
            if self._failure is None or error is self._failure:
                raise
            if isinstance(self._failure, errors.KafkaError):
                raise self._failure from error
            raise errors.KafkaConnectionError(repr(self._failure)) from error

    def _succeeded(self, _: object) -> None:
        self._let_in = True

    def _failed(self, error: BaseException) -> None:
        self._failure = error


def _last_words_first(receive: Callable[[], tuple[bytes, Exception | None]]) -> tuple[bytes, Exception | None]:
    """What came before the connection's end, and the end the next time it is asked for.

    The library drops data that it reads together with the end; in these a broker says why it will not let a client in.
    """
    data, error = receive()
    return data, None if data else error


def _is_final(error: BaseException) -> bool:
    return isinstance(error, CREDENTIALS_REFUSED) or "CERTIFICATE_VERIFY_FAILED" in str(error)
