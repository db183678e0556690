"""Sends names to the Rust worker and prints what comes back."""

import os
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ["MQ_BROKER_URL"]))
channel = connection.channel()
# Without confirms, what is sent just before the connection closes may be lost.
channel.confirm_delivery()
for name in sys.argv[1:]:
    channel.basic_publish(exchange="", routing_key="from-python", body=name)
answers = channel.consume("from-rust", auto_ack=True, inactivity_timeout=20)
for _ in sys.argv[1:]:
    method, properties, body = next(answers)
    print(f"python: {body.decode() if body else 'no answer'}")
connection.close()
