"""Carries many byte streams, called channels, over calls that may break: the answer of a streaming call
in one direction, and unary calls in the other direction.

The client and the worker use the same classes. Bytes have positions, and each side keeps its bytes until the other side
has passed them on. Therefore a broken call loses nothing, and a repeated call has no second effect.
"""
