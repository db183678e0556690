"""Calls Rust tasks as a Python program does, and prints what comes back.   call.py CASE"""

import sys
import time
import uuid
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

from celery import chain
from proj import add, app, echo, rust_queue, seen

case = sys.argv[1]


def rust(name, *args, **options):
    return app.signature(name, args=args, queue=rust_queue, **options)


def wait(result):
    return result.get(timeout=40, disable_sync_subtasks=False)


def failure(result):
    try:
        wait(result)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no failure"


if case == "result":
    print(wait(rust("rust_add", 2, 40).delay()))
    print(wait(app.signature("rust_add", kwargs={"a": 1, "b": 2}, queue=rust_queue).delay()))
    print(wait(rust("rust_describe", {"id": 7, "items": ["tea", "Grüße"]}).delay()))
elif case == "failure":
    print(failure(rust("rust_fail", "by python").delay()))
    print(failure(rust("rust_add", 1).delay()))
    print(failure(rust("rust_unknown").delay()))
elif case == "retry":
    print(wait(rust("rust_flaky", 2).delay()))
elif case == "countdown":
    begun = time.monotonic()
    print(wait(rust("rust_add", 1, 1).apply_async(countdown=1.5)), time.monotonic() - begun >= 1.5)
elif case == "chain":
    # Python, Rust, Python: each gets the result of the one before.
    print(wait(chain(add.s(1, 2), rust("rust_add", 10), add.s(100))()))
elif case == "typed":
    naive = datetime(2031, 1, 2, 3, 4, 5, 678)
    aware = datetime(2031, 1, 2, 5, 4, 5, 678, tzinfo=timezone(timedelta(hours=2)))
    given = [[naive, aware, date(2031, 1, 2)], Decimal("1.10"), uuid.UUID(int=5), b"\xff\x00", b"raw", 2**64]
    print(wait(rust("rust_typed", *given).delay()))
elif case == "typed-chain":
    # What Rust passes on is what Python wrote: to its own step, and to a callback.
    last = echo.s(datetime(2031, 1, 2), date(2031, 1, 2), Decimal("1.10"), uuid.UUID(int=5), b"\xff", 2**70)
    print(wait(chain(rust("rust_big"), last)()))
elif case == "options":
    step = seen.s(1).set(
        expires=60, time_limit=30, soft_time_limit=20, headers={"note": "n"}, shadow="shown", retries=2, priority=3,
        link=add.s(1).set(ignore_result=True), stamped_headers=["tenant"], tenant="a",
    )
    print(wait(chain(rust("rust_add", 1, 2), step)()))
elif case == "chord":
    # A member of a chord's header that is a chain: Celery gives its last step the chord.
    member = chain(rust("rust_add", 1, 2), rust("rust_add", 3))
    print(failure(member.apply_async(group_id="group", chord=echo.si())))
elif case == "times":
    for eta in ["2015-12-05", "20151205T101112Z", "2015-12-05T10:11:12+0000", "2015-12-05 10:11,5+02", "2015-12-31T24:00"]:
        eta = eta.replace("10:11,5", "10:11:12,5")
        with app.producer_or_acquire() as producer:
            message = app.amqp.as_task_v2(str(uuid.uuid4()), "rust_add", (1, 2), {}, eta=eta, time_limit=0, soft_time_limit=0)
            producer.publish(message.body, exchange="", routing_key=rust_queue, serializer="json",
                             headers=message.headers, **message.properties)
elif case == "expires":
    # It goes out as the property on which the broker acts, and no worker is there in time.
    print(failure(rust("rust_add", 1, 1).apply_async(expires=0.2)))
