"""Heads that are remembered have the meaning that a plain codec of HPACK gives them."""

from __future__ import annotations

import random

import hpack
import pytest
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from iris.rpc.http.server.http2_headers import RememberingDecoder

Fields = list[tuple[bytes, bytes]]


def some_head(rng: random.Random) -> Fields:
    """Return headers of which some repeat, some are new, and some fill the table."""
    names = [b":status", b"date", b"x-a", b"x-b", b"authorization"]
    values = [b"200", b"1", b"v" * 40, rng.randbytes(3).hex().encode(), b"long" * 300]
    return [(rng.choice(names), rng.choice(values)) for _ in range(rng.randrange(1, 6))]


@pytest.mark.parametrize("seed", range(10))
def test_remembering_hpack_decoder_returns_the_headers_of_a_plain_decoder(seed: int) -> None:
    rng = random.Random(seed)
    encoder, plain, remembering = hpack.Encoder(), hpack.Decoder(), RememberingDecoder(2**16)
    heads = [some_head(rng) for _ in range(6)]
    for _ in range(300):
        if rng.random() < 0.05:
            heads[rng.randrange(len(heads))] = some_head(rng)
        if rng.random() < 0.03:
            encoder.header_table_size = rng.choice([0, 100, 1000, 4096])
        kind = rng.choice([HeaderTuple, NeverIndexedHeaderTuple, NeverIndexedHeaderTuple])
        data = encoder.encode([kind(*pair) for pair in rng.choice(heads)])
        assert list(remembering.decode(data, raw=True)) == list(plain.decode(data, raw=True))


def test_repeated_http2_heads_are_decoded_once() -> None:
    encoder, decoder = hpack.Encoder(), RememberingDecoder(2**16)
    head = [HeaderTuple(b"a", b"b"), NeverIndexedHeaderTuple(b"authorization", b"x" * 300)]
    blocks = [encoder.encode(head) for _ in range(3)]
    results = [list(decoder.decode(block, raw=True)) for block in blocks]
    assert results == [[(b"a", b"b"), (b"authorization", b"x" * 300)]] * 3
    assert results[2][1] is results[1][1]
