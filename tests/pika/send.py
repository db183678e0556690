"""One: puts texts into a queue.   send.py QUEUE TEXT..."""

import sys

from common import connect

queue, *texts = sys.argv[1:]
connection = connect()
channel = connection.channel()
channel.confirm_delivery()
# A queue that exists stays what it is; passive only asks for it.
channel.queue_declare(queue=queue, passive=True)
for text in texts:
    channel.basic_publish(exchange="", routing_key=queue, body=text)
connection.close()
