"""The controller's answers to a part of a log that a worker uploads.

An answer is the position, in bytes of records, at which the next part must begin, or a negative number: `UNWANTED` or
`RETRY_LATER`.
"""

UNWANTED = -1  # The controller wants nothing more of this log.
RETRY_LATER = -2  # The controller cannot store this log now, for example because its disk is full.
