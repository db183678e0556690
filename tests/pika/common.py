"""What all scripts share: the connection. The address is in MQ_BROKER_URL.

Those that publish and end ask for confirms, which the tutorials leave out: of what is published to a quorum queue without
them just before the connection closes, RabbitMQ loses some.
"""

import os

import pika


def connect():
    return pika.BlockingConnection(pika.URLParameters(os.environ["MQ_BROKER_URL"]))


def declare(queue):
    """Makes a queue as the first tutorial does: classic, gone with the server."""
    try:
        with connect() as connection:
            connection.channel().queue_declare(queue=queue)
    except pika.exceptions.ConnectionClosedByBroker as closed:
        # RabbitMQ 4 may forbid such queues. What it takes instead is classic too, and stays.
        if "transient_nonexcl_queues" not in closed.reply_text:
            raise
        with connect() as connection:
            connection.channel().queue_declare(queue=queue, durable=True)
