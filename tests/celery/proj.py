"""A Celery application as it stands in Python programs. The queues are the test's: PROJ_QUEUE, and RUST_QUEUE for the
tasks in Rust."""

import os

from celery import Celery
from kombu import Queue

queue = os.environ["PROJ_QUEUE"]
rust_queue = os.environ["RUST_QUEUE"]

app = Celery("proj", broker=os.environ["MQ_BROKER_URL"], backend="rpc://")
app.conf.update(
    task_default_queue=queue,
    task_queues=[
        Queue(queue, routing_key=queue),
        # The Rust worker has declared it, with arguments that Celery would not give it.
        Queue(rust_queue, routing_key=rust_queue, no_declare=True),
    ],
    task_default_exchange="",
    task_default_routing_key=queue,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    task_default_retry_delay=0,
)


class Refused(Exception):
    """What a task of this program raises."""


@app.task(name="proj.add")
def add(x, y):
    return x + y


@app.task(name="proj.fail")
def fail(what):
    raise Refused(f"refused: {what}")


@app.task(name="proj.flaky", bind=True, max_retries=3)
def flaky(self, failures):
    if self.request.retries < failures:
        raise self.retry(countdown=0.2, exc=Refused("not yet"))
    return self.request.retries


@app.task(name="proj.describe")
def describe(order, *, loud=False):
    text = f"{order['id']}: {', '.join(order['items'])}"
    return text.upper() if loud else text
