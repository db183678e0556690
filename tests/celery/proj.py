"""A Celery application as it stands in Python programs. The queues are the test's: PROJ_QUEUE, and RUST_QUEUE for the
tasks in Rust."""

import os
import pathlib
import time
from datetime import datetime, timedelta, timezone
from decimal import Decimal

from celery import Celery
from kombu import Queue

queue = os.environ["PROJ_QUEUE"]
rust_queue = os.environ["RUST_QUEUE"]

app = Celery("proj", broker=os.environ["MQ_BROKER_URL"], backend=os.environ["PROJ_BACKEND"])
app.conf.update(
    broker_connection_timeout=60,
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


@app.task(name="proj.echo")
def echo(*values):
    """What Python made of the values."""
    return repr(values)


@app.task(name="proj.typed")
def typed():
    """What kombu writes as typed values."""
    return [datetime(2031, 1, 2, 3, 4, 5), Decimal("1.10"), b"\xff\x00", 2**64, timedelta(seconds=90).total_seconds()]


@app.task(name="proj.nan")
def nan():
    return [float("nan"), 1.5]


@app.task(name="proj.seen", bind=True)
def seen(self, *values):
    """What a later step is told beside its arguments."""
    request = self.request
    seconds = round((datetime.fromisoformat(request.expires) - datetime.now(timezone.utc)).total_seconds())
    return repr((
        values, request.timelimit, 0 < seconds <= 60, request.headers.get("note"), request.stamps, request.shadow,
        request.retries, len(request.callbacks or []), request.delivery_info["priority"],
    ))


@app.task(name="proj.describe")
def describe(order, *, loud=False):
    text = f"{order['id']}: {', '.join(order['items'])}"
    return text.upper() if loud else text


@app.task(name="proj.staged", bind=True, track_started=True)
def staged(self, directory):
    def gate(name):
        while not (pathlib.Path(directory) / name).exists():
            time.sleep(0.01)

    gate("started")
    self.update_state(state="PROGRESS", meta={"current": 1, "total": 2, "status": "half"})
    gate("progress")
    self.update_state(state="UPLOADING", meta={"to": "archive"})
    gate("uploading")
    return "done"


@app.task(name="proj.refuse")
def refuse(*why):
    raise Refused(*why)


@app.task(name="proj.parent", bind=True)
def parent(self):
    return add.delay(1, 2).id
