"""Two: puts persistent work into a durable queue.   new_task.py QUEUE TEXT..."""

import sys

import pika
from common import connect

queue, *texts = sys.argv[1:]
connection = connect()
channel = connection.channel()
channel.queue_declare(queue=queue, passive=True)
channel.confirm_delivery()
for text in texts:
    channel.basic_publish(
        exchange="",
        routing_key=queue,
        body=text,
        properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
    )
connection.close()
