"""Three, four and five: prints COUNT messages of an exchange.   receive_logs.py EXCHANGE KIND COUNT [KEY...]"""

import sys

from common import connect

exchange, kind, count, *keys = sys.argv[1:]
count = int(count)
connection = connect()
channel = connection.channel()
channel.exchange_declare(exchange=exchange, exchange_type=kind)
# A queue of this script's own, gone with it.
queue = channel.queue_declare(queue="", exclusive=True).method.queue
for key in keys or [""]:
    channel.queue_bind(exchange=exchange, queue=queue, routing_key=key)
print("ready")
for method, properties, body in channel.consume(queue, auto_ack=True, inactivity_timeout=20):
    if method is None:
        sys.exit(f"no message within 20 seconds, {count} are missing")
    print(f"got {method.routing_key} {body.decode()}")
    count -= 1
    if count == 0:
        break
channel.cancel()
connection.close()
