"""What all scripts share: the connection. The address is in MQ_BROKER_URL."""

import os

import pika


def connect():
    return pika.BlockingConnection(pika.URLParameters(os.environ["MQ_BROKER_URL"]))
