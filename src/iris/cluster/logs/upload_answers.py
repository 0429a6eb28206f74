"""The controller's answers to a part of a log that a worker uploads.

The answer to an uploaded part is the position in the log at which the next part must begin, in bytes of records, or a
negative number: `UNWANTED` or `RETRY_LATER`.
"""

# The answer `UNWANTED` means that the controller wants nothing more of this log.
UNWANTED = -1
# The answer `RETRY_LATER` means that the controller cannot store this log now, for example on a full disk.
RETRY_LATER = -2
