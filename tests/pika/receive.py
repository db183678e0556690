"""One: prints the next COUNT messages of a queue.   receive.py QUEUE COUNT"""

import sys

from common import connect

queue, count = sys.argv[1], int(sys.argv[2])
connection = connect()
channel = connection.channel()
channel.queue_declare(queue=queue, passive=True)
for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=20):
    if method is None:
        sys.exit(f"no message within 20 seconds, {count} are missing")
    print(f"got {body.decode()} ({properties.content_type})")
    count -= 1
    if count == 0:
        break
channel.cancel()
connection.close()
