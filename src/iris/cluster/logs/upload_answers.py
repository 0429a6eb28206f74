"""How the controller answers a part of a log that a worker uploads.

The answer is the position, in bytes of records, at which the next part must begin, or one of these negative numbers.
"""

UNWANTED = -1  # The controller wants nothing more of this log.
RETRY_LATER = -2  # The controller cannot store this log now, for example because its disk is full.
