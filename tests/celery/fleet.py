"""The worker in Python of a mixed fleet; and run as a program, what changes one worker with `app.control` and prints its
replies."""

import json
import os
import sys

from celery import Celery
from kombu import Queue

queues = os.environ.get("FLEET_QUEUES", "python").split(",")

app = Celery("fleet", broker=os.environ["MQ_BROKER_URL"])
app.conf.update(
    broker_connection_timeout=60,
    task_queues=[Queue(name, routing_key=name, no_declare=not name.startswith("python")) for name in queues],
    task_default_queue=queues[0],
    task_default_exchange="",
    task_default_routing_key=queues[0],
    broker_connection_retry_on_startup=True,
)


@app.task(name="fleet.add")
def add(x, y):
    return x + y


def change(node, queue):
    control = app.control
    asked = {"reply": True, "timeout": 20}
    one = {**asked, "destination": [node]}
    replies = {
        "add_consumer": control.add_consumer(queue, **one),
        "cancel_consumer": control.cancel_consumer(queue, **one),
        "pool_grow": control.pool_grow(2, **one),
        "pool_shrink": control.pool_shrink(1, **one),
        "time_limit": control.time_limit("fleet.add", soft=5, hard=9, **one),
        "time_limit of none": control.time_limit("nonsense", hard=9, **one),
        "rate_limit": control.rate_limit("fleet.add", "5/m", **one),
        "rate_limit of 0": control.rate_limit("fleet.add", 0, **one),
        "rate_limit of nonsense": control.rate_limit("fleet.add", "often", **one),
        "enable_events": control.enable_events(**one),
        "disable_events": control.disable_events(**one),
        "revoke_by_stamped_headers": control.revoke_by_stamped_headers({"tenant": ["acme"]}, **one),
        "autoscale": control.autoscale(5, 1, **one),
        "pool_restart": control.pool_restart(**one),
        "election": control.broadcast("election", arguments={"id": "1", "topic": "t", "action": "a"}, **one),
        "glob": control.broadcast("ping", pattern=node[:-2] + "*", matcher="glob", limit=1, **asked),
        "pcre": control.broadcast("ping", pattern="^" + node[:-2], matcher="pcre", limit=1, **asked),
        "another": control.broadcast("ping", pattern="x*", matcher="glob", reply=True, timeout=0.5),
    }
    print(json.dumps({what: [reply.get(node) for reply in answer or []] for what, answer in replies.items()}))


if __name__ == "__main__":
    change(*sys.argv[1:])
