"""Celery, Dramatiq and huey as peers of `benches/run --peers`: one measurement for each run.

    peers.py PEER enqueue|drain AT TASKS

Prints the figures as JSON: tasks a second, CPU time of this process for each task in microseconds, memory in MB. Each
peer is set up as its own documentation recommends for speed, with the fastest pool that was found. None of them waits
for the broker's confirmation of a message.
"""

import json
import os
import sys
import threading
import time


class Begun:
    def __init__(self):
        self.clock, self.cpu = time.perf_counter(), time.process_time()

    def end(self, tasks):
        elapsed, cpu = time.perf_counter() - self.clock, time.process_time() - self.cpu
        with open("/proc/self/status") as status:
            kib = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        figures = {"rate": tasks / elapsed, "cpu": cpu * 1e6 / tasks, "latency": 0.0, "rss": kib * 1024 / 1e6}
        print(json.dumps(figures), flush=True)


class Count:
    """Counts tasks, from the start of the first to the end of the last."""

    def __init__(self, tasks):
        self.tasks, self.done, self.begun, self.lock = tasks, 0, None, threading.Lock()

    def one(self):
        """True after the last task."""
        with self.lock:
            self.begun = self.begun or Begun()
            self.done += 1
            return self.done == self.tasks

    def end(self):
        self.begun.end(self.tasks)
        # Nothing is acknowledged or cleaned up any more: this was a measurement.
        os._exit(0)


USER = {"id": 7, "email": "somebody@example.com", "name": "Somebody"}


def celery(what, at, tasks):
    from celery import Celery

    count = Count(tasks)
    app = Celery("peers", broker=at)
    app.conf.update(
        task_default_queue="peer-celery",
        task_ignore_result=True,
        task_acks_late=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
    )

    @app.task(name="noop")
    def noop(user):
        if count.one():
            count.end()

    if what == "enqueue":
        # The first call connects and declares.
        noop.delay(USER)
        begun = Begun()
        for _ in range(1, tasks):
            noop.delay(USER)
        begun.end(tasks - 1)
    else:
        app.Worker(pool="solo", concurrency=1, prefetch_multiplier=64, without_gossip=True, without_mingle=True).start()


def dramatiq(what, at, tasks):
    import dramatiq as library
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    count = Count(tasks)
    broker = RabbitmqBroker(url=at)
    library.set_broker(broker)

    @library.actor(queue_name="peer-dramatiq", actor_name="noop")
    def noop(user):
        if count.one():
            count.end()

    if what == "enqueue":
        # The first call connects and declares.
        noop.send(USER)
        begun = Begun()
        for _ in range(1, tasks):
            noop.send(USER)
        begun.end(tasks - 1)
    else:
        library.Worker(broker, worker_threads=8).start()
        threading.Event().wait()


def huey(what, at, tasks):
    from huey import SqliteHuey

    count = Count(tasks)
    huey = SqliteHuey(filename=at, fsync=True, results=False)

    @huey.task(name="noop")
    def noop(user):
        if count.one():
            count.end()

    if what == "enqueue":
        begun = Begun()
        for _ in range(tasks):
            noop(USER)
        begun.end(tasks)
    else:
        huey.create_consumer(workers=2, periodic=False, initial_delay=0.01, max_delay=0.05).start()
        threading.Event().wait()


if __name__ == "__main__":
    peer, what, at, tasks = sys.argv[1:]
    {"celery": celery, "dramatiq": dramatiq, "huey": huey}[peer](what, at, int(tasks))
