"""A broker that speaks AMQP 0.9.1, such as RabbitMQ: messages in, replies out, each acknowledged behind its reply.

Loaded only where messages are consumed: it takes the extra `amqp`.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import aiormq
import msgspec
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.channel import Channel
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    DeliveryError,
    InvalidFrameError,
    ProbableAuthenticationError,
)
from pamqp.commands import Basic
from yarl import URL

from shipworthy.kernel.errors import AccessError, ConflictError, NotFoundError, ShipworthyError, UnavailableError
from shipworthy.serving.messages.consumer import Message, Reply
from shipworthy.serving.messages.settings import ConsumerSettings, place_of

OPEN_S = 20.0  # for a connection and its queues
CLOSE_S = 2.0
PERSISTENT = 2  # delivery mode: on the broker's disk
MAX_PROBLEM = 1000  # characters of a problem in a dead letter's header

# what a connection that is lost raises: the library's errors, a bare Exception, and the cancelling of its own tasks
_LOST = (Exception, asyncio.CancelledError)

logging.getLogger("aiormq").setLevel(logging.CRITICAL)  # what it says comes as an error too, and is said in our words


class Delivery(msgspec.Struct, frozen=True, eq=False):
    """A message, and what the broker needs to hear of it again."""

    message: Message
    tag: int
    properties: Any


class Link:
    """One connection to a broker; when it is lost, what came by it comes again by the next.

    Args:
        settings: names of the queues.
        connection, channel: open.
    """

    def __init__(self, settings: ConsumerSettings, connection: AbstractConnection, channel: Channel) -> None:
        self._settings = settings
        self._connection = connection
        self._channel = channel
        self._inbox: asyncio.Queue[Delivery | None] = asyncio.Queue()  # None: there will be no more
        self._loss: ShipworthyError | None = None
        self._ended = asyncio.Event()

    async def consume(self, writer: asyncio.StreamWriter) -> None:
        """Let messages come.

        Args:
            writer: of the connection's socket; the library may take a minute to say that it is gone.

        Raises:
            AccessError, NotFoundError, ConflictError: the queue, as `open_link` says.
        """
        self._watching = asyncio.create_task(self._watch(writer))
        for one in (self._channel, self._connection):
            one.closing.add_done_callback(self._lose)
        self._channel.on_consumer_cancel_callbacks.add(self._lose)  # the queue was deleted
        await self._channel.basic_qos(prefetch_count=self._settings.prefetch)
        await self._channel.basic_consume(self._settings.queue, self._receive, consumer_tag="shipworthy")

    async def take(self, limit: int) -> list[Delivery]:
        """The messages that are there, at least one and at most `limit`; none once it was ended.

        Raises:
            UnavailableError: the connection is lost, or a reply could not be published.
        """
        taken: list[Delivery] = []
        while not taken or (len(taken) < limit and not self._inbox.empty()):
            delivery = await self._inbox.get()
            if delivery is None:
                self._inbox.put_nowait(None)  # it holds for ever
                if self._loss is not None:
                    raise self._loss
                break
            taken.append(delivery)
        return taken

    def end(self) -> None:
        """Take nothing more; what was not taken goes back to the queue."""
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)

    def fail(self, loss: ShipworthyError) -> None:
        """Take nothing more by this connection, for it is of no use."""
        self._loss = self._loss or loss
        self._ended.set()
        self.end()

    async def reply(self, deliveries: Sequence[Delivery], replies: Sequence[Reply]) -> int:
        """Publish a reply to each, and acknowledge all up to the last once the broker has them; how many were buried.

        Raises:
            UnavailableError: the broker took not all of them; none is acknowledged.
        """
        settings = self._settings
        dead = [pair for pair in zip(deliveries, replies, strict=True) if pair[1].problem and settings.dead_letter]
        published = [self._publish(*pair) for pair in zip(deliveries, replies, strict=True)]
        buried = [self._bury(*pair) for pair in dead]
        sending = asyncio.create_task(self._send_all(published + buried, deliveries[-1].tag))
        sending.add_done_callback(_see)
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({sending, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            sending.cancel()  # not waited for: what waits for a connection that is gone may wait for ever
        if not sending.done() or sending.cancelled():
            raise self._loss or UnavailableError("the connection was lost")
        if (error := sending.exception()) is not None:
            what = "the broker did not take a reply" if isinstance(error, DeliveryError) else "the connection was lost"
            raise UnavailableError(f"{what}: {_words(error)}")
        return len(dead)

    async def close(self) -> None:
        """Let go; what is not acknowledged comes again."""
        self._watching.cancel()
        await _close(self._connection)

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await writer.wait_closed()
        self.fail(UnavailableError("the connection was lost"))

    async def _send_all(self, sending: Sequence[Any], tag: int) -> None:
        """Wait until the broker has all, then acknowledge; raises what one of them raised."""
        for done in await asyncio.gather(*sending, return_exceptions=True):
            if isinstance(done, BaseException):
                raise done
        await self._channel.basic_ack(tag, multiple=True)

    async def _receive(self, delivered: DeliveredMessage) -> None:
        properties = delivered.header.properties
        message = Message(delivered.body, _text(properties.message_id), bool(delivered.redelivered))
        self._inbox.put_nowait(Delivery(message, delivered.delivery_tag or 0, properties))

    def _lose(self, _: object) -> None:
        self.fail(UnavailableError("the connection was lost, or the queue is gone"))

    async def _publish(self, delivery: Delivery, reply: Reply) -> None:
        properties = Basic.Properties(
            content_type="application/json" if reply.problem is None else "application/problem+json",
            correlation_id=_text(delivery.properties.correlation_id) or delivery.message.name or _short(reply.id),
            message_id=reply.prediction_id,
            delivery_mode=PERSISTENT,
            headers=None if reply.id is None else {"id": reply.id},
        )
        await self._send(reply.body, self._settings.answers, properties)

    async def _bury(self, delivery: Delivery, reply: Reply) -> None:
        """Keep what cannot be answered, with the reason."""
        given = delivery.properties
        detail = "" if reply.problem is None else reply.problem.detail[:MAX_PROBLEM]
        properties = Basic.Properties(
            content_type=_text(given.content_type),
            correlation_id=_text(given.correlation_id),
            message_id=delivery.message.name,
            delivery_mode=PERSISTENT,
            headers={"problem": detail, "from": self._settings.queue},
        )
        await self._send(delivery.message.body, self._settings.dead_letter, properties)

    async def _send(self, body: bytes, queue: str, properties: Basic.Properties) -> None:
        await self._channel.basic_publish(body, routing_key=queue, properties=properties, mandatory=True, wait=False)


async def open_link(settings: ConsumerSettings, url: str) -> Link:
    """Connect, and let messages come.

    Args:
        settings: names of the queues.
        url: with its secrets.

    Raises:
        AccessError: the user, its password or the virtual host is not right, or the user may not use a queue.
        NotFoundError: a queue is missing.
        ConflictError: a queue is declared otherwise, or another consumer has it for itself.
        UnavailableError: the broker does not answer.
    """
    place = place_of(url)
    try:
        async with asyncio.timeout(OPEN_S):
            watched = _Watched(TLSTransportFactory() if url.startswith("amqps:") else TCPTransportFactory())
            connection = await aiormq.connect(url, transport_factory=watched)
            try:
                link = Link(settings, connection, cast(Channel, await connection.channel()))
                await _check_queues(settings, connection, place)
                if watched.writer is not None:
                    await link.consume(watched.writer)
            except BaseException:
                await _close(connection)
                raise
    except ShipworthyError:
        raise
    except (AuthenticationError, ProbableAuthenticationError, InvalidFrameError):
        raise AccessError(f"{place} refuses the user, the password or the virtual host of --url.") from None
    except ChannelAccessRefused as error:
        raise AccessError(f"{place}: {_words(error)}.") from None
    except _LOST as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise UnavailableError(f"{place} does not answer: {_words(error)}") from None
    return link


async def _close(connection: AbstractConnection) -> None:
    """Let go, politely if that is quick."""
    closing = asyncio.ensure_future(connection.close())
    closing.add_done_callback(_see)
    await asyncio.wait({closing}, timeout=CLOSE_S)
    closing.cancel()


def _see(task: "asyncio.Future[Any]") -> None:
    """Nobody asks any more how it ended."""
    if not task.cancelled():
        task.exception()


class _Watched(TransportFactory):
    """Keeps hold of the socket's writer."""

    def __init__(self, factory: TransportFactory) -> None:
        self._factory = factory
        self.writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self.writer = await self._factory.create(url, **options)
        return reader, self.writer


async def _check_queues(settings: ConsumerSettings, connection: AbstractConnection, place: str) -> None:
    queues = [settings.queue, settings.answers, *([settings.dead_letter] if settings.dead_letter else [])]
    for name in queues:
        channel = await connection.channel()  # a broker closes the one by which a missing queue was asked for
        try:
            if settings.create:
                await channel.queue_declare(name, durable=True, arguments=_arguments(settings, name))
            else:
                await channel.queue_declare(name, passive=True)
        except ChannelNotFoundEntity:
            raise NotFoundError(f"{place}: there is no queue {name!r}; declare it, or let --create do so.") from None
        except ChannelPreconditionFailed as error:
            raise ConflictError(f"{place}: {_words(error)}; leave --create out.") from None
        await channel.close()


def _arguments(settings: ConsumerSettings, name: str) -> dict[str, Any]:
    """Of a queue that we make: on more than one node where there are more, and the requests given to one consumer."""
    arguments: dict[str, Any] = {"x-queue-type": "quorum"}
    if name == settings.queue:
        arguments |= {"x-single-active-consumer": True}
        if settings.dead_letter:
            arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": settings.dead_letter}
    return arguments


def _words(error: BaseException) -> str:
    """What the library says, on one line; names of queues and codes, never an address or a secret."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:MAX_PROBLEM] or type(error).__name__


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _short(name: str | None) -> str | None:
    """As AMQP can carry it: 255 bytes."""
    return name if name is None or len(name.encode("utf-8", "surrogatepass")) < 256 else None
