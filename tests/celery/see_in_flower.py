"""Looks at one worker through Flower, and acts on it: every page and every endpoint that is about workers or tasks.

It is the same for a worker in Python and for one in Rust: Flower must not be able to tell them apart. Printed are the keys of all
that it answered, as lines to compare.

    see_in_flower.py FLOWER WORKER QUEUE KIND
"""

import json
import re
import sys
import time
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

flower, worker, queue, kind = sys.argv[1:]


keys = set()


def walk(where, value):
    """The keys of an answer; what bears a name of this run has a word in its place."""
    if isinstance(value, dict):
        # Not those of the other worker.
        for key, inner in value.items():
            if key == worker or not str(key).endswith("@test"):
                walk(f"{where}.{named(str(key))}", inner)
    elif isinstance(value, list):
        for inner in value:
            walk(where, inner)
    else:
        keys.add(where)


def named(text):
    text = text.replace(worker, "WORKER").replace(quote(worker), "WORKER").replace(queue, "QUEUE")
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)


def ask(path, method="GET", form=None, body=None, expect=200):
    """The answer of Flower: JSON where it is JSON, else text."""
    data = b"" if method == "POST" else None
    if form is not None:
        data = urlencode(form).encode()
    if body is not None:
        data = json.dumps(body).encode()
    try:
        with urlopen(Request(flower + path, data=data, method=method), timeout=30) as answer:
            status, text = answer.status, answer.read().decode()
    except HTTPError as error:
        status, text = error.code, error.read().decode()
    assert status == expect, f"{method} {path}: {status} instead of {expect}: {text[:2000]}"
    where = f"{method} {named(path.split('?')[0])} {status}"
    try:
        answer = json.loads(text)
    except ValueError:
        keys.add(where)
        return text
    walk(where, answer)
    return answer


def post(path, expect=200, **form):
    return ask(path, "POST", form=form, expect=expect)


def eventually(what, question, limit=40):
    end = time.monotonic() + limit
    while True:
        try:
            last = question()
        except AssertionError as error:
            last, failure = None, error
        else:
            failure = last
        if last:
            return last
        assert time.monotonic() < end, f"{what}: {failure}"
        time.sleep(0.3)


def info():
    """What Flower knows of the worker, asked anew."""
    return ask(f"/api/workers?refresh=1&workername={quote(worker)}")[worker]


def state_of(task, *states):
    def look():
        found = ask(f"/api/task/info/{task}")
        assert found["state"] in states, found
        return found

    return eventually(f"{task} is in {states}", look)


def send(name, *args):
    sent = ask(f"/api/task/send-task/{name}", "POST", body={"args": args, "queue": queue, "routing_key": queue})
    return sent["task-id"]


name = quote(worker)

# The worker is online, and says all that its page shows.
eventually("the worker is online", lambda: ask("/api/workers?status=1").get(worker))
eventually("the worker is inspected", lambda: {"stats", "registered", "active_queues", "conf"} <= set(info()))
known = info()
assert {"flowered.add", "flowered.fail", "flowered.sleep"} <= {task.split()[0] for task in known["registered"]}, known
assert [one["name"] for one in known["active_queues"]] == [queue], known["active_queues"]
size = known["stats"]["pool"]["max-concurrency"]
assert size == 2, known["stats"]
rows = ask("/workers?json=1")["data"]
row = next(row for row in rows if row["hostname"] == worker)
assert row["status"] is True and row["loadavg"] is not None and row["freq"] == 2.0, row
for page in ["/", "/workers", f"/worker/{name}", "/tasks", "/healthcheck"]:
    page_text = ask(page)
    assert page == "/healthcheck" or "<html" in page_text, page
assert worker in ask(f"/worker/{name}") and queue in ask(f"/worker/{name}")

# Tasks: a success, a failure, one that is revoked while it waits, and one that is stopped while it runs.
# Until the events are on.
eventually("tasks are seen", lambda: send("flowered.add", 2, 3) and ask(f"/api/tasks?workername={name}"))
added = send("flowered.add", 2, 3)
found = state_of(added, "SUCCESS")
assert found["name"] == "flowered.add" and found["args"] in ("(2, 3)", "[2, 3]"), found
assert found["kwargs"] == "{}" and found["result"] == "5" and found["worker"] == worker, found
assert found["runtime"] is not None and found["received"] and found["started"] and found["succeeded"], found
assert found["retries"] == 0 and found["root_id"] == added, found
# What Flower itself reads from the store of results.
kept = eventually("its result is kept", lambda: (lambda found: "result" in found and found)(ask(f"/api/task/result/{added}")))
assert kept["task-id"] == added and kept["result"] == 5, kept

failed = send("flowered.fail", "it's broken")
found = state_of(failed, "FAILURE")
assert "it's broken" in found["exception"] and found["traceback"] and found["failed"], found

listed = ask(f"/api/tasks?workername={name}&taskname=flowered.add")
assert added in listed and listed[added]["state"] == "SUCCESS", listed
listed = ask("/api/tasks?state=FAILURE")
assert failed in listed, listed
assert "flowered.add" in ask("/api/task/types")["task-types"]
page = ask(f"/task/{added}")
assert added in page and "flowered.add" in page and worker in page
table = ask("/tasks/datatable?draw=1&start=0&length=50&search[value]=&order[0][column]=0&order[0][dir]=asc"
            "&columns[0][data]=name")
assert any(line["uuid"] == added and line["worker"] == worker for line in table["data"]), table

# Flower publishes these itself, and waits for the result of the first.
done = ask("/api/task/apply/flowered.add", "POST", body={"args": [4, 5], "queue": queue, "routing_key": queue})
assert done["result"] == 9 and done["state"] == "SUCCESS", done
sent = ask("/api/task/async-apply/flowered.add", "POST", body={"args": [6, 7], "queue": queue, "routing_key": queue})
assert state_of(sent["task-id"], "SUCCESS")["result"] == "13"

later = ask("/api/task/send-task/flowered.add", "POST",
            body={"args": [1, 1], "queue": queue, "routing_key": queue, "countdown": 3})["task-id"]
waiting = eventually("it is received", lambda: (lambda found: found["received"] and found)(ask(f"/api/task/info/{later}")))
assert waiting["args"] in ("(1, 1)", "[1, 1]") and waiting["eta"], waiting
post(f"/api/task/revoke/{later}")
state_of(later, "REVOKED")

# A worker in Python that kills a process of its pool for this often does nothing for minutes afterwards.
is_rust = kind == "rust"
sleeping = send("flowered.sleep", 60 if is_rust else 5)
state_of(sleeping, "STARTED")
eventually("the running task is shown", lambda: sleeping in [task["id"] for task in info()["active"]])
assert sleeping in ask(f"/worker/{name}")
# A note in the store of results, which a task may look for and this one does not.
post(f"/api/task/abort/{sleeping}")
assert ask(f"/api/task/result/{sleeping}")["state"] == "ABORTED"
if is_rust:
    post(f"/api/task/revoke/{sleeping}?terminate=true")
    state_of(sleeping, "REVOKED")

# Control.
post(f"/api/task/timeout/flowered.sleep", workername=worker, hard=1.5, soft=1)
if is_rust:
    limited = send("flowered.sleep", 30)
    assert "TimeLimitExceeded" in state_of(limited, "FAILURE")["exception"]
post(f"/api/task/rate-limit/flowered.add", workername=worker, ratelimit=0)
if not is_rust:
    post(f"/api/task/rate-limit/flowered.add", workername=worker, ratelimit="100/s")
else:
    refused = post(f"/api/task/rate-limit/flowered.add", workername=worker, ratelimit="100/s", expect=403)
    assert "rate limit" in refused and "Unknown reason" not in refused, refused

post(f"/api/worker/pool/grow/{name}?n=2")
# Celery's own number stays what it was at the start.
eventually("the pool has grown", lambda: not is_rust or info()["stats"]["pool"]["max-concurrency"] == size + 2)
post(f"/api/worker/pool/shrink/{name}?n=1")
eventually("the pool has shrunk", lambda: not is_rust or info()["stats"]["pool"]["max-concurrency"] == size + 1)
refused = post(f"/api/worker/pool/autoscale/{name}?min=1&max=5", expect=403)
assert "Autoscale not enabled" in refused, refused
refused = post(f"/api/worker/pool/restart/{name}", expect=403)
assert "Pool restarts not enabled" in refused, refused

other = f"{queue}.other"
told = post(f"/api/worker/queue/add-consumer/{name}?queue={other}")
assert other in told["message"], told
eventually("it consumes from both", lambda: {one["name"] for one in info()["active_queues"]} == {queue, other})
sent = ask("/api/task/send-task/flowered.add", "POST", body={"args": [20, 22], "exchange": "", "routing_key": other})
assert state_of(sent["task-id"], "SUCCESS")["result"] == "42"
told = post(f"/api/worker/queue/cancel-consumer/{name}?queue={other}")
assert other in told["message"], told
eventually("it consumes from one", lambda: [one["name"] for one in info()["active_queues"]] == [queue])

lengths = ask("/api/queues/length")["active_queues"]
assert queue in [one["name"] for one in lengths], lengths
assert queue in ask("/broker")
metrics = ask("/metrics")
assert f'flower_worker_online{{worker="{worker}"}} 1.0' in metrics, metrics
assert f'type="task-succeeded",worker="{worker}"' in metrics, metrics
for missing in ["/api/worker/pool/grow/nobody@nowhere", "/api/task/timeout/flowered.add?workername=nobody@nowhere"]:
    post(missing, expect=404)

post(f"/api/worker/shutdown/{name}")
eventually("the worker is offline", lambda: ask("/api/workers?status=1").get(worker) is False)
print("\n".join(sorted(keys)))
