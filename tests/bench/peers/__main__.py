"""``bin/bench peers``."""

import sys

from tests.bench.peers.run import main
from tests.support import broker

broker.close_when_asked_to_end()
sys.exit(main())
