// A terminal's session over connections that break: no byte is lost or repeated, and every end is known or said.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import {
  ChannelReset,
  Controller_WriteTunnelRequestSchema,
  ExecControlSchema,
  ExecEventSchema,
  ExecStream,
  TunnelMessageSchema,
  WriteTunnelResponseSchema,
  type TunnelMessage,
} from "../src/gen/iris/rpc/cluster_pb.ts";
import type { ExecCalls } from "../src/views/inside/host.ts";
import { ExecSession, type Outcome } from "../src/views/inside/terminal/exec_session.ts";

class Outage extends Error {}

/** A pseudo-random number from 0 to 1, the same in each run. */
function dice(seed: number): () => number {
  let state = seed;
  return () => ((state = (state * 1103515245 + 12345) % 2147483648), state / 2147483648);
}

// The length of the event that says that the command has started. A worker with no more events never ends its streams.
const STARTED_BYTES = 6;

/** A worker with one session. It keeps bytes until they are acknowledged, and sends them again on each connection. */
class Worker {
  readonly input: number[] = [];
  readonly sizes: string[] = [];
  readonly closes: string[] = [];
  connections = 0;
  isGone = false;
  private readonly known = new Set<number>();
  private readonly acknowledged = new Map<number, number>();
  private readonly controlBytes: number[] = [];
  private deliver: ((message: TunnelMessage) => void) | null = null;

  constructor(
    private readonly output: Uint8Array,
    private readonly events: Uint8Array,
    private readonly random: () => number,
    private readonly breaks: number,
  ) {}

  readonly calls: ExecCalls = {
    follow: async (request, onMessage, signal) => {
      while (!signal.aborted) {
        const { resume } = request();
        if (this.isGone) throw new Error("the session is gone");
        this.connections += 1;
        const channels = [...this.known].map(BigInt);
        onMessage(create(TunnelMessageSchema, { opened: { attemptId: 3, channels: resume ? channels : [] } }));
        this.deliver = onMessage;
        await this.send(signal);
        this.deliver = null;
      }
    },
    write: async (request) => {
      await turn();
      const { parts } = fromBinary(Controller_WriteTunnelRequestSchema, toBinary(Controller_WriteTunnelRequestSchema, create(Controller_WriteTunnelRequestSchema, request)));
      const fate = this.connections <= this.breaks ? this.random() : 1;
      if (fate < 0.3) throw new Outage("lost on the way in");
      for (const part of parts) {
        const channel = Number(part.channel);
        if (part.target) this.known.add(channel);
        this.acknowledged.set(channel, Math.max(this.acknowledged.get(channel) ?? 0, Number(part.received)));
        const bytes = channel === 1 ? this.controlBytes : this.input;
        assert.ok(Number(part.position) <= bytes.length || part.data.length === 0, "bytes are missing");
        bytes.push(...part.data.subarray(Math.max(0, bytes.length - Number(part.position))));
      }
      if (fate < 0.5) throw new Outage("lost on the way out");
      return create(WriteTunnelResponseSchema);
    },
    close: ({ attemptId }) => void this.closes.push(`attempt ${attemptId}`),
    encodeControl: (size) => toBinary(ExecControlSchema, create(ExecControlSchema, size)),
    decodeEvent: (bytes) => fromBinary(ExecEventSchema, bytes),
    isOutage: (error) => error instanceof Outage,
    explain: (error) => ({ text: `${(error as Error).message}.`, advice: "" }),
    pause: turn,
  };

  push(message: TunnelMessage): void {
    this.deliver?.(message);
  }

  get control(): number[] {
    return this.controlBytes;
  }

  /** Sends what is not acknowledged, in pieces of random sizes, until the connection breaks. */
  private async send(signal: AbortSignal): Promise<void> {
    const sent = new Map([[1, this.acknowledged.get(1) ?? 0], [2, this.acknowledged.get(2) ?? 0]]);
    while (!signal.aborted) {
      await turn();
      if (this.isGone || (this.connections <= this.breaks && this.random() < 0.2)) return;
      for (const [channel, bytes] of [[1, this.events], [2, this.output]] as const) {
        const from = Math.min(sent.get(channel) ?? 0, bytes.length);
        if (!this.known.has(channel) || (sent.get(channel) ?? 0) > bytes.length) continue;
        const data = bytes.slice(from, from + 1 + Math.floor(this.random() * 60_000));
        const end = from + data.length === bytes.length && this.events.length > STARTED_BYTES;
        if (data.length === 0 && !end) continue;
        sent.set(channel, from + data.length + Number(end));
        const received = BigInt(channel === 1 ? this.controlBytes.length : this.input.length);
        this.push(create(TunnelMessageSchema, { parts: [{ channel: BigInt(channel), position: BigInt(from), data, end, received }] }));
      }
    }
  }
}

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

function eventBytes(exitCode: number, error = ""): Uint8Array {
  return joined([{ pid: 7 }, { exit: { exitCode, error } }].map((event) => {
    const bytes = toBinary(ExecEventSchema, create(ExecEventSchema, event));
    return joined([new Uint8Array([0, 0, 0, bytes.length]), bytes]);
  }));
}

function bytesOf(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function textOf(bytes: Iterable<number>): string {
  return new TextDecoder().decode(Uint8Array.from(bytes));
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let position = 0;
  for (const part of parts) {
    all.set(part, position);
    position += part.length;
  }
  return all;
}

interface Shown {
  readonly session: ExecSession;
  readonly bytes: Uint8Array[];
  readonly started: () => boolean;
  readonly ended: Promise<Outcome>;
}

function show(worker: Worker): Shown {
  const bytes: Uint8Array[] = [];
  let hasStarted = false;
  let end: (outcome: Outcome) => void;
  const ended = new Promise<Outcome>((resolve) => (end = resolve));
  const session = new ExecSession(worker.calls, "tunnel", { rows: 24, columns: 80 }, {
    onOutput: (data, done) => {
      bytes.push(data.slice());
      setImmediate(done);
    },
    onStarted: () => (hasStarted = true),
    onWaiting: () => undefined,
    onEnd: (outcome) => end(outcome),
  });
  session.start();
  return { session, bytes, started: () => hasStarted, ended };
}

test("output and input arrive exactly once over forty broken connections", async () => {
  for (const seed of [1, 2, 3, 4]) {
    const output = bytesOf(Array.from({ length: 100_000 }, (_, index) => `${index}\n`).join(""));
    const worker = new Worker(output, eventBytes(3), dice(seed), 40);
    const shown = show(worker);
    for (let index = 0; index < 200; index += 1) shown.session.input(bytesOf(`line ${index}\n`));
    shown.session.resize({ rows: 50, columns: 132 });
    assert.deepEqual(await shown.ended, { exitCode: 3, error: "" });
    assert.ok(shown.started() && worker.connections > 5);
    const digest = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
    assert.equal(digest(joined(shown.bytes)), digest(output));
    assert.deepEqual(worker.closes, ["attempt 3"]);
    const typed = textOf(worker.input);
    assert.ok(Array.from({ length: 200 }, (_, index) => `line ${index}\n`).join("").startsWith(typed));
  }
});

test("the exit code is reported only after all output", async () => {
  const worker = new Worker(new Uint8Array(500_000), eventBytes(0), dice(9), 0);
  const shown = show(worker);
  assert.equal((await shown.ended).exitCode, 0);
  assert.equal(joined(shown.bytes).length, 500_000);
});

test("a stream of events that ends without an exit code fails the session", async () => {
  const worker = new Worker(bytesOf("x"), joined([eventBytes(0).subarray(0, STARTED_BYTES), new Uint8Array([0])]), dice(9), 0);
  assert.match((await show(worker).ended).error, /unknown how the command ended/);
});

test("input that the worker has no room for is sent again", async () => {
  const worker = new Worker(new Uint8Array(0), new Uint8Array(0), dice(5), 0);
  let refused = 0;
  const { write } = worker.calls;
  const calls: ExecCalls = { ...worker.calls, write: async (request, signal) => {
    const isInput = request.parts?.some((part) => part.channel === 2n && part.data?.length);
    if (!isInput || refused >= 3) return write(request, signal);
    refused += 1;
    await turn();
    return create(WriteTunnelResponseSchema, { again: [2n] });
  } };
  const session = new ExecSession(calls, "tunnel", { rows: 1, columns: 2 }, {
    onOutput: (_, done) => done(), onStarted: () => undefined, onWaiting: () => undefined, onEnd: () => undefined,
  });
  session.start();
  session.input(bytesOf("hello"));
  while (worker.input.length < 5) await turn();
  assert.equal(textOf(worker.input), "hello");
  assert.equal(refused, 3);
  session.close();
});

test("pauses grow while each call fails, and while each stream breaks soon after its messages", async () => {
  const pauses: number[] = [];
  const pause = async (ms: number) => {
    pauses.push(ms);
    await turn();
  };
  const opened = create(TunnelMessageSchema, { opened: { attemptId: 3, channels: [1n, 2n] } });
  const worker = new Worker(new Uint8Array(0), new Uint8Array(0), dice(1), 0);
  const ignored = { onOutput: () => undefined, onStarted: () => undefined, onWaiting: () => undefined, onEnd: () => undefined };
  const run = async (calls: Partial<ExecCalls>, count: number) => {
    const session = new ExecSession({ ...worker.calls, pause, ...calls }, "tunnel", { rows: 1, columns: 2 }, ignored);
    session.start();
    while (pauses.length < count) await turn();
    session.close();
    return pauses.splice(0);
  };
  const grow = (all: readonly number[]) => all.every((ms, index) => ms >= 150 * 2 ** index);

  const fails = () => Promise.reject(new Outage("lost"));
  const holds = (_: unknown, onMessage: (message: TunnelMessage) => void) => {
    onMessage(opened);
    return new Promise<void>(() => undefined);
  };
  assert.ok(grow(await run({ write: fails, follow: holds }, 5)));

  const works = () => turn().then(() => create(WriteTunnelResponseSchema));
  const breaks: ExecCalls["follow"] = async (request, onMessage) => {
    request();
    onMessage(opened);
    onMessage(opened);
    await turn();
  };
  assert.ok(grow(await run({ write: works, follow: breaks }, 5)));
});

test("a session that is gone after a lost connection fails without an exit code", async () => {
  const worker = new Worker(bytesOf("x"), eventBytes(0).subarray(0, STARTED_BYTES), dice(1), 1);
  const shown = show(worker);
  while (!shown.started()) await turn();
  worker.isGone = true;
  const { exitCode, error } = await shown.ended;
  assert.equal(exitCode, null);
  assert.match(error, /the session is gone\. It is unknown how the command ended/);
});

test("a channel that the worker does not know any more fails the session", async () => {
  const worker = new Worker(bytesOf("x"), eventBytes(0).subarray(0, STARTED_BYTES), dice(1), 0);
  const shown = show(worker);
  while (!shown.started() || shown.bytes.length === 0) await turn();
  worker.push(create(TunnelMessageSchema, { opened: { attemptId: 3, channels: [2n] } }));
  assert.match((await shown.ended).error, /does not know the session any more/);
});

test("a reset says why, and whether the end of the command is known", async () => {
  for (const [reset, isKnown] of [[ChannelReset.LIMIT, true], [ChannelReset.LOST, false]] as const) {
    const worker = new Worker(new Uint8Array(0), new Uint8Array(0), dice(1), 0);
    const shown = show(worker);
    while (worker.connections === 0) await turn();
    worker.push(create(TunnelMessageSchema, { parts: [{ channel: 1n, reset, resetText: "users run 32 commands" }] }));
    const { exitCode, error } = await shown.ended;
    assert.equal(exitCode, null);
    assert.equal(error.includes("unknown"), !isKnown);
    assert.match(error, /^users run 32 commands\./);
  }
});

test("a session that the user leaves is closed once, and reports no end", async () => {
  const worker = new Worker(bytesOf("x"), new Uint8Array(0), dice(1), 0);
  const shown = show(worker);
  while (worker.control.length === 0 && shown.bytes.length === 0) await turn();
  shown.session.close();
  shown.session.close();
  shown.session.input(bytesOf("late"));
  assert.deepEqual(worker.closes, ["attempt 3"]);
  assert.equal(await Promise.race([shown.ended, turn().then(() => "no end")]), "no end");
});

test("the command asks for a terminal of the size of the screen", async () => {
  const worker = new Worker(new Uint8Array(0), new Uint8Array(0), dice(1), 0);
  const targets: unknown[] = [];
  const { write } = worker.calls;
  const calls: ExecCalls = { ...worker.calls, write: (request, signal) => {
    targets.push(...(request.parts ?? []).map((part) => part.target?.exec));
    return write(request, signal);
  } };
  const session = new ExecSession(calls, "tunnel", { rows: 40, columns: 100 }, {
    onOutput: (_, done) => done(), onStarted: () => undefined, onWaiting: () => undefined, onEnd: () => undefined,
  });
  session.start();
  while (targets.length < 2) await turn();
  assert.deepEqual(targets, [
    { stream: ExecStream.CONTROL, command: { terminal: true, input: true, rows: 40, columns: 100, envVars: { TERM: "xterm-256color", COLORTERM: "truecolor" } } },
    { stream: ExecStream.STDIO },
  ]);
  session.close();
});
