"""Carries many byte streams, called channels, over calls that may break: one streamed answer and unary calls.

The client and the worker use the same classes. Bytes have positions, and each side keeps its bytes until the other side
has passed them on. Therefore a broken call loses nothing, and a repeated call has no second effect.
"""
