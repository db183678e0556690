"""Publishes JSON, bytes and a text with every property that a task can ask for.   facts.py QUEUE"""

import json
import sys

import pika
from common import connect

queue = sys.argv[1]
connection = connect()
channel = connection.channel()
channel.confirm_delivery()


def publish(body, **properties):
    channel.basic_publish(exchange="", routing_key=queue, body=body, properties=pika.BasicProperties(**properties))


publish(
    json.dumps({"id": 7, "name": "Grüße"}),
    content_type="application/json",
    message_id="message-7",
    reply_to="nowhere",
    headers={"shop": "berlin", "count": 3, "deep": {"list": [1, "two", None]}},
)
publish(b"\x00\xff\x10", content_type="image/png")
connection.close()
