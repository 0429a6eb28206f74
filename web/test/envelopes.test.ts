import assert from "node:assert/strict";
import { test } from "node:test";
import { encodeEnvelope } from "@connectrpc/connect/protocol";
import { envelopesOf } from "../src/rpc/shared/envelopes";

const SIZES = [0, 1, 7, 0, 300, 70_000];
const ENVELOPES = SIZES.map((size, index) => encodeEnvelope(index % 3, new Uint8Array(size).fill(index)));
const ALL = Uint8Array.from(ENVELOPES.flatMap((envelope) => [...envelope]));

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
  for (const size of [1, 4, 5, 6, 13, 1_000, ALL.length]) {
    const found: Uint8Array[] = [];
    for await (const envelope of envelopesOf(bodyOf(ALL, size))) found.push(envelope);
    assert.deepEqual(found.map((one) => [...one]), ENVELOPES.map((one) => [...one]), `parts of ${size} bytes`);
  }
});

test("body that ends within an envelope is an error", async () => {
  for (const end of [3, 5 + 5 + 3, ALL.length - 1]) {
    const read = async () => {
      for await (const _ of envelopesOf(bodyOf(ALL.subarray(0, end), 10)));
    };
    await assert.rejects(read, /cut within a message/);
  }
});
