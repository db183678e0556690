"""One: makes a queue as the first tutorial does: classic, gone with the server.   declare.py QUEUE"""

import sys

from common import declare

declare(sys.argv[1])
