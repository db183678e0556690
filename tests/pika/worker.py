"""Two: works on COUNT messages, one at a time, each dot a hundredth of a second.   worker.py QUEUE COUNT"""

import sys
import time

from common import connect

queue, count = sys.argv[1], int(sys.argv[2])
connection = connect()
channel = connection.channel()
channel.queue_declare(queue=queue, passive=True)
channel.basic_qos(prefetch_count=1)
print("ready")


def work(channel, method, properties, body):
    global count
    time.sleep(body.count(b".") / 100)
    print(f"done {body.decode()}")
    channel.basic_ack(delivery_tag=method.delivery_tag)
    count -= 1
    if count == 0:
        channel.stop_consuming()


channel.basic_consume(queue=queue, on_message_callback=work)
channel.start_consuming()
connection.close()
