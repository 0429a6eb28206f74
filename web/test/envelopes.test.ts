import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import { envelopesOf } from "../src/rpc/shared/envelopes";

const SMALL = [0, 1, 7, 0, 300].map((size, index) => encodeEnvelope(index % 3, new Uint8Array(size).fill(index)));
const LARGE = [...SMALL, encodeEnvelope(2, new Uint8Array(70_000).fill(5))];

function joined(envelopes: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(envelopes.flatMap((envelope) => [...envelope]));
}

/** Returns a body that arrives in parts of a size. */
function bodyOf(bytes: Uint8Array, size: number): ReadableStream<Uint8Array> {
  let at = 0;
  return new ReadableStream({
    pull: (controller) => {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.subarray(at, (at += size)));
      return undefined;
    },
  });
}

test("envelopes are whole, however their bytes arrive", async () => {
  for (const size of [1, 4, 5, 6, 13, 1_000, 100_000]) {
    const envelopes = size < 1_000 ? SMALL : LARGE; // Thousands of small parts would take seconds.
    const found: Uint8Array[] = [];
    for await (const envelope of envelopesOf(bodyOf(joined(envelopes), size))) found.push(envelope);
    assert.deepEqual(found.map((one) => [...one]), envelopes.map((one) => [...one]), `parts of ${size} bytes`);
  }
});

test("body that ends within an envelope is an error", async () => {
  const all = joined(SMALL);
  for (const end of [3, 5 + 5 + 3, all.length - 1]) {
    const read = async () => {
      for await (const _ of envelopesOf(bodyOf(all.subarray(0, end), 10)));
    };
    await assert.rejects(read, /cut within a message/);
  }
});
