"""Signs the requests to webhooks. The module is pure.

The signature covers the time of the request and the body. Therefore a receiver can refuse a request that someone else
sends again later.
"""

from __future__ import annotations

import hashlib
import hmac

TIMESTAMP_HEADER = "iris-timestamp"
SIGNATURE_HEADER = "iris-signature"
EVENT_HEADER = "iris-event-id"
MIN_SECRET = 16  # The smallest accepted number of characters of a secret.


def sign(secret: str, timestamp_s: int, body: bytes) -> str:
    """Return the value of the header with the signature: `v1=` and a SHA-256 HMAC in hexadecimal digits.

    Args:
        secret: The secret that the cluster and the receiver share.
        timestamp_s: The value of the header with the time, in seconds since the epoch.
        body: The body of the request.
    """
    mac = hmac.new(secret.encode(), f"{timestamp_s}.".encode() + body, hashlib.sha256)
    return f"v1={mac.hexdigest()}"
