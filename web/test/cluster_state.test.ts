import assert from "node:assert/strict";
import { test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  Controller_MachineSchema,
  Controller_WaitingGangSchema,
  Controller_WatchClusterResponseSchema,
  Controller_EventSchema,
  Placement,
  UsageSeriesSchema,
} from "../src/gen/iris/rpc/cluster_pb";
import { chosenEvents, fieldsText } from "../src/views/cluster/event_filter";
import { needText, sharesOf, shareText, tasksText } from "../src/views/machines/amounts";
import { ClusterState } from "../src/views/machines/cluster_state";
import { sumOf } from "../src/views/machines/usage_sum";

const GIB = 2n ** 30n;
const message = (fields: MessageInitShape<typeof Controller_WatchClusterResponseSchema>) =>
  create(Controller_WatchClusterResponseSchema, fields);

test("changes are applied to the machines of the first message", () => {
  const state = new ClusterState();
  const names = (fields: MessageInitShape<typeof Controller_WatchClusterResponseSchema>) =>
    state.apply(message(fields))?.machines.map((machine) => `${machine.name}${machine.alive ? "+" : "-"}`);
  assert.deepEqual(names({ complete: true, machines: [{ name: "m10", alive: true }, { name: "m9", alive: true }] }), ["m9+", "m10+"]);
  assert.equal(names({}), undefined, "a beat changes nothing");
  assert.deepEqual(names({ machines: [{ name: "m9" }, { name: "m8" }], removedMachines: ["m10"] }), ["m8-", "m9-"]);
  assert.deepEqual(names({ complete: true, machines: [{ name: "new" }] }), ["new-"]);
  assert.deepEqual(names({ complete: true }), []);
});

test("events continue after the last one, and begin anew after a restart of the controller", () => {
  const state = new ClusterState();
  const numbers = (...wanted: bigint[]) =>
    state.apply(message({ events: wanted.map((number) => ({ number })) }))?.events.map((event) => event.number);
  assert.deepEqual(numbers(1n, 2n), [2n, 1n]);
  assert.deepEqual(numbers(5n), [5n, 2n, 1n]);
  assert.equal(state.lastEvent, 5n);
  assert.deepEqual(numbers(3n), [3n]);
});

test("shares of machines leave out dead machines and unknown use", () => {
  const machine = (fields: MessageInitShape<typeof Controller_MachineSchema>) => create(Controller_MachineSchema, fields);
  const alive = machine({
    name: "a",
    alive: true,
    total: { cpu: 4, memoryBytes: 8n * GIB },
    free: { cpu: 1, cpuMillicores: 1_500n, memoryBytes: 2n * GIB },
    used: { cpuMillicores: 1_250n, memoryBytes: GIB },
  });
  const [cpu, memory, ...others] = sharesOf([alive, machine({ name: "dead", total: { cpu: 100 } })]);
  assert.ok(cpu && memory);
  assert.deepEqual(others, []);
  assert.equal(shareText(cpu), "2.5 cores of 4 cores allocated, 1.25 cores used");
  assert.equal(shareText(memory), "6.0 GiB of 8.0 GiB allocated, 1.0 GiB used");
  const unknown = sharesOf([machine({ alive: true, total: { cpu: 1, gpu: 2 }, free: { cpu: 1, gpu: 1 } })]);
  assert.deepEqual(unknown.map(shareText), ["0 cores of 1 core allocated", "0 B of 0 B allocated", "1 GPU of 2 GPUs allocated"]);
});

test("needs and tasks are written in words", () => {
  const gang = (fields: MessageInitShape<typeof Controller_WaitingGangSchema>) => needText(create(Controller_WaitingGangSchema, fields));
  assert.equal(
    gang({ slots: 4, need: { cpuMillicores: 250n, memoryBytes: GIB, gpu: 1 }, placement: Placement.SPREAD, labels: { zone: "a" } }),
    "4 × 0.25 cores, 1.0 GiB, 1 GPU, spread, zone=a",
  );
  assert.equal(gang({ slots: 1 }), "no resources");
  assert.equal(tasksText([3]), "task 3");
  assert.equal(tasksText([0, 1, 2, 5]), "tasks 0–2, 5");
  assert.equal(tasksText([0, 2, 4, 6, 8, 10, 12, 14]), "tasks 0, 2, 4, 6, 8, and 3 more");
  assert.equal(tasksText([]), "");
});

test("the use of workers with different steps is added up", () => {
  const series = (stepMs: bigint, ...points: [bigint, bigint][]) =>
    create(UsageSeriesSchema, {
      stepMs,
      timesMs: points.map(([time]) => time),
      cpuMillicores: points.map(([, value]) => value),
      memoryMb: points.map(() => 1n),
    });
  const sum = sumOf([series(4_000n, [8_000n, 1_000n], [12_000n, 2_000n]), series(2_000n, [8_000n, 500n], [10_000n, 1_500n])]);
  // The second worker reports no point in the last step, so its value holds.
  assert.deepEqual(sum.map((point) => [point.timeMs, point.cores, point.memoryBytes / 2 ** 20]), [[8_000, 2.5, 2], [12_000, 3.5, 2]]);
  const gone = sumOf([series(1_000n, [0n, 1_000n], [60_000n, 1_000n]), series(1_000n, [0n, 500n])]);
  assert.deepEqual(gone.map((point) => point.cores), [1.5, 1]);
  assert.deepEqual(sumOf([]), []);
});

test("events are chosen by name, field and level", () => {
  const event = (name: string, level: string, fields: Record<string, string>) => create(Controller_EventSchema, { name, level, fields });
  const events = [event("job.state", "info", { job_id: "train", state: "RUNNING" }), event("message", "warning", { text: "Disk" })];
  assert.deepEqual(events.map(fieldsText), ["job_id=train state=RUNNING", "Disk"]);
  assert.deepEqual(chosenEvents(events, " RUN", false), [events[0]]);
  assert.deepEqual(chosenEvents(events, "", true), [events[1]]);
  assert.deepEqual(chosenEvents(events, "disk", false), [events[1]]);
});
