"""Three, four and five: publishes to an exchange.   emit_log.py EXCHANGE KIND [KEY=TEXT...]"""

import sys

from common import connect

exchange, kind, *lines = sys.argv[1:]
connection = connect()
channel = connection.channel()
channel.confirm_delivery()
channel.exchange_declare(exchange=exchange, exchange_type=kind)
for line in lines:
    key, _, text = line.partition("=")
    channel.basic_publish(exchange=exchange, routing_key=key, body=text)
connection.close()
