"""What is listened to, over one connection after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable

from skyring.errors import Unavailable
from skyring.nats.connection import ConnectionLost
from skyring.nats.message import Received
from skyring.nats.session import Interest, Session

__all__ = ["Subscription"]

logger = logging.getLogger(__name__)

FAILURES_LOGGED_MAX = 10


class Subscription:
    """Made by `Link.subscribe`.

    Args:
        subject: may hold wildcards.
        on_message: called for each message.
        queue: of all subscriptions with this name, one gets each message.
        ended: called when it has been ended.
    """

    def __init__(
        self,
        subject: str,
        on_message: Callable[[Received], None],
        queue: str,
        ended: Callable[[Subscription], None],
    ) -> None:
        if subject.split() != [subject] or queue.split() != [queue] * bool(queue):
            raise ValueError("the subject is empty, or it or the queue holds white space")
        self.subject = subject
        self.queue = queue
        self.failures = 0
        """How often ``on_message`` has raised something."""
        self.refused: str | None = None
        """The server's words, if it does not permit this."""
        self._on_message = on_message
        self._ended = ended
        self._here: Interest | None = None
        self._is_over = False

    def begin(self, session: Session) -> None:
        """Listen on a new connection."""
        self.refused = None
        self._here = session.subscribe(self.subject, self._take, self.queue, self._refuse)

    def end(self) -> None:
        """Listen no more; nothing is handed over after this. May be called twice."""
        self._is_over = True
        self._ended(self)
        if self._here is not None:
            self._here.end()
            self._here = None

    async def drain(self) -> None:
        """Listen no more; what was on its way has been handed over when it returns.

        Raises:
            Unavailable: the connection was lost meanwhile.
        """
        self._ended(self)  # there is no next connection for it
        here, self._here = self._here, None
        try:
            if here is not None:
                await here.drain()
        except ConnectionLost as error:
            raise Unavailable(f"the connection to NATS was lost: {error}") from None
        finally:
            self._is_over = True

    def _take(self, subject: bytes, reply: bytes, head: bytes, data: bytes) -> None:
        if self._is_over:
            return
        try:
            self._on_message(Received(subject.decode(), reply.decode(), data, head))
        except Exception:  # a message of a stranger must not cost the connection
            self.failures += 1
            if self.failures <= FAILURES_LOGGED_MAX:
                logger.exception("a message on %s has made its receiver fail", self.subject)

    def _refuse(self, text: str) -> None:
        self.refused = text
        logger.error("NATS does not permit to listen on %s: %s", self.subject, text)
