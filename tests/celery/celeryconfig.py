"""Settings of `celery -b URL …` in tests: the four seconds of Celery's own are short for a busy machine."""

broker_connection_timeout = 60
