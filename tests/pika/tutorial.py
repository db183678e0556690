"""Runs a script of RabbitMQ's tutorials as it stands.   tutorial.py SCRIPT [ARGUMENT...]

The scripts name only a host, `localhost`. The port and the virtual host, which pika takes by default, are those of
MQ_BROKER_URL.
"""

import os
import pathlib
import runpy
import sys

import pika

broker = pika.URLParameters(os.environ["MQ_BROKER_URL"])
pika.connection.Parameters.DEFAULT_PORT = broker.port
pika.connection.Parameters.DEFAULT_VIRTUAL_HOST = broker.virtual_host
script = pathlib.Path(__file__).parent / "tutorials" / sys.argv[1]
sys.argv = [str(script), *sys.argv[2:]]
runpy.run_path(str(script), run_name="__main__")
