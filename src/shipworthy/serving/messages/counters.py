"""What a consumer counts about its messages, beside what every answer is counted in."""

import msgspec


class MessageCounters(msgspec.Struct):
    """The counts of one consumer; the event loop alone touches them."""

    received: int = 0
    redelivered: int = 0  # of them, given out by the broker before
    answered: int = 0  # for the first time
    repeated: int = 0  # their id was answered before, or is being answered
    refused: int = 0  # with a problem
    dead: int = 0  # of them, put into the dead letters
    held: int = 0  # tries that ended because the record was refused
    published: int = 0  # confirmed by the broker, and the message acknowledged
    connects: int = 0
    is_connected: bool = False


def render_message_metrics(counts: MessageCounters, remembered: int) -> bytes:
    """The counts in Prometheus' text format.

    Args:
        counts: of the consumer.
        remembered: ids that are known to be answered.
    """
    lines: list[str] = []
    for name, kind, text, values in (
        (
            "messages_total",
            "counter",
            "Messages, by what was replied.",
            {
                '{outcome="answered"}': counts.answered,
                '{outcome="repeated"}': counts.repeated,
                '{outcome="refused"}': counts.refused,
            },
        ),
        ("messages_received_total", "counter", "Messages that came.", {"": counts.received}),
        ("messages_redelivered_total", "counter", "Messages that came again.", {"": counts.redelivered}),
        ("messages_published_total", "counter", "Replies that the broker confirmed.", {"": counts.published}),
        ("messages_dead_total", "counter", "Messages put into the dead letters.", {"": counts.dead}),
        ("messages_held_total", "counter", "Tries that failed because the record was refused.", {"": counts.held}),
        ("broker_connects_total", "counter", "Connections made to the broker.", {"": counts.connects}),
        ("broker_connected", "gauge", "Whether messages come.", {"": int(counts.is_connected)}),
        ("ids_remembered", "gauge", "Ids that are known to be answered.", {"": remembered}),
    ):
        lines += [f"# HELP shipworthy_{name} {text}", f"# TYPE shipworthy_{name} {kind}"]
        lines += [f"shipworthy_{name}{labels} {value}" for labels, value in values.items()]
    return ("\n".join(lines) + "\n").encode()
