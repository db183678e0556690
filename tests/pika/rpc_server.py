"""Six: answers COUNT questions for Fibonacci numbers.   rpc_server.py QUEUE COUNT"""

import sys

import pika
from common import connect, declare

queue, count = sys.argv[1], int(sys.argv[2])
declare(queue)
connection = connect()
channel = connection.channel()
channel.basic_qos(prefetch_count=1)


def fib(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def answer(channel, method, properties, body):
    global count
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=str(fib(int(body))),
    )
    channel.basic_ack(delivery_tag=method.delivery_tag)
    count -= 1
    if count == 0:
        channel.stop_consuming()


channel.basic_consume(queue=queue, on_message_callback=answer)
print("ready")
channel.start_consuming()
connection.close()
