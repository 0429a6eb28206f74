"""The controller's answers to a part of a log that a worker uploads.

An answer is the position, in bytes of records, at which the next part must begin, or a negative number: `UNWANTED` or
`RETRY_LATER`.
"""

# The answer `UNWANTED` means that the controller wants nothing more of this log.
UNWANTED = -1
# The answer `RETRY_LATER` means that the controller cannot store this log now, for example on a full disk.
RETRY_LATER = -2
