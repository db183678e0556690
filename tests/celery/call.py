"""Calls Rust tasks as a Python program does, and prints what comes back.   call.py CASE"""

import sys
import time

from celery import chain
from proj import add, app, rust_queue

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
elif case == "expires":
    # It goes out as the property on which the broker acts, and no worker is there in time.
    print(failure(rust("rust_add", 1, 1).apply_async(expires=0.2)))
