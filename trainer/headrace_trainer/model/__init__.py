"""Models: bases, adapters, what they take. Knows no rows but as tokens."""

import logging

# On import it warns of kernels that could be downloaded; jobs download nothing.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
