"""Looks at what Rust tasks say about themselves, as a Python program does.   results.py CASE [DIRECTORY]"""

import pathlib
import sys
import time

from celery import chain, chord, group
from celery.result import ResultSet
from proj import add, app, rust_queue

case = sys.argv[1]


def rust(name, *args, **options):
    return app.signature(name, args=args, queue=rust_queue, **options)


def until(result, state):
    deadline = time.monotonic() + 40
    while result.state != state:
        if time.monotonic() > deadline:
            sys.exit(f"the state is {result.state}, not {state}: {result.info!r}")
        time.sleep(0.02)


if case == "states":
    directory = pathlib.Path(sys.argv[2])
    result = rust("rust_staged", str(directory)).delay()
    until(result, "STARTED")
    print(result.state, "@" in result.info["hostname"], result.info["pid"] > 0)
    (directory / "started").touch()
    until(result, "PROGRESS")
    print(result.state, *(result.info[name] for name in ["current", "total", "percent", "description"]))
    (directory / "progress").touch()
    until(result, "UPLOADING")
    print(result.state, result.info)
    (directory / "uploading").touch()
    print(result.get(timeout=40), result.state, result.ready(), result.successful())
elif case == "retry":
    result = rust("rust_busy").delay()
    until(result, "RETRY")
    print(result.state, type(result.info).__name__, result.info)
    print(result.get(timeout=40))
elif case == "failures":
    told = []
    for call in [rust("rust_chained_error"), rust("rust_panics"), rust("rust_add", 1)]:
        result = call.delay()
        error = result.get(timeout=40, propagate=False)
        told.append(f"{type(error).__name__} {error} {result.state} {result.failed()}\n{result.traceback}")
    print("\n--\n".join(told))
elif case == "kombu":
    values = rust("rust_kombu").delay().get(timeout=40)
    print(*(repr(value) for value in values), sep="\n")
    # What Rust wrote for Python comes back to Rust.
    print(rust("rust_unkombu", *values).delay().get(timeout=40))
elif case == "set":
    results = ResultSet([rust("rust_add", n, n + 1).delay() for n in [1, 3, 5]])
    print(results.join(timeout=40), results.ready(), results.successful(), results.completed_count())
    results = ResultSet([rust("rust_add", 1, 1).delay(), rust("rust_chained_error").delay()])
    print([str(value) for value in results.join(timeout=40, propagate=False)], results.failed())
    members = group(rust("rust_add", 1, 2), rust("rust_add", 3, 4))()
    print(members.join(timeout=40))
    result = rust("rust_add", 1, 1).delay()
    print(result.get(timeout=40), result.forget())
elif case == "chord":
    body = chord([rust("rust_add", 1, 2), rust("rust_add", 3, 4)])(rust("rust_describe"))
    for result in [*body.parent.results, body]:
        print(result.get(timeout=40, propagate=False), result.state)
elif case == "sets":
    results = ResultSet([rust("rust_add", n, n + 1).delay() for n in [1, 3, 5]])
    print(results.join(timeout=40))
    parent = rust("rust_parent").delay()
    print([value for _, value in parent.collect(timeout=40)])
    parent.forget()
    print(app.AsyncResult(parent.id).state)
    print(chain(add.s(1, 2), rust("rust_add", 10), add.s(100))().get(timeout=40))
    late = rust("rust_add", 1, 1).apply_async(countdown=1)
    late.revoke()
    error = late.get(timeout=40, propagate=False)
    print(late.state, type(error).__name__, error)
