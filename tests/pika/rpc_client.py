"""Six: asks, and prints the answer.   rpc_client.py QUEUE QUESTION..."""

import sys
import uuid

import pika
from common import connect

queue, *questions = sys.argv[1:]
connection = connect()
channel = connection.channel()
callback_queue = channel.queue_declare(queue="", exclusive=True).method.queue
answers = {}


def received(channel, method, properties, body):
    answers[properties.correlation_id] = (properties, body)


channel.basic_consume(queue=callback_queue, on_message_callback=received, auto_ack=True)
for question in questions:
    correlation_id = str(uuid.uuid4())
    channel.basic_publish(
        exchange="",
        routing_key=queue,
        properties=pika.BasicProperties(reply_to=callback_queue, correlation_id=correlation_id),
        body=question,
    )
    while correlation_id not in answers:
        connection.process_data_events(time_limit=20)
    properties, body = answers[correlation_id]
    failed = (properties.headers or {}).get("mq-error")
    print(f"{question} -> {failed + ': ' if failed else ''}{body.decode()}")
connection.close()
