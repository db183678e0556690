"""The Celery application that Flower is started with, and the worker in Python that it is to be shown beside ours."""

import os
import time

from celery import Celery
from kombu import Queue

queues = os.environ["FLOWERED_QUEUES"].split(",")

app = Celery("flowered", broker=os.environ["MQ_BROKER_URL"], backend=os.environ["FLOWERED_RESULTS"])
app.conf.update(
    broker_connection_timeout=60,
    # The worker in Rust declares its own, with arguments that Celery would not give it.
    task_queues=[Queue(name, routing_key=name, no_declare=not name.startswith("python")) for name in queues],
    task_default_queue=queues[0],
    task_default_exchange="",
    task_default_routing_key=queues[0],
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task(name="flowered.add")
def add(x, y):
    return x + y


@app.task(name="flowered.fail", max_retries=0)
def fail(what):
    raise ValueError(what)


@app.task(name="flowered.sleep")
def sleep(seconds):
    time.sleep(seconds)
