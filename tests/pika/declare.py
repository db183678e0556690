"""One: makes a queue as the first tutorial does: classic, gone with the server.   declare.py QUEUE"""

import sys

from common import connect

connection = connect()
connection.channel().queue_declare(queue=sys.argv[1])
connection.close()
