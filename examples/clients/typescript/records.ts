// Decodes the records of StreamTaskLogsResponse.Chunk. cluster.proto describes their format.

const HEADER_BYTES = 25;
const GAP = 0x10;

export interface LogRecord {
  source: "stdout" | "stderr" | "build";
  data: Uint8Array; // what the task wrote
  missing: string; // why bytes are missing at this place; empty for an ordinary record
}

export function* readRecords(records: Uint8Array): Generator<LogRecord> {
  const view = new DataView(records.buffer, records.byteOffset, records.byteLength);
  for (let at = 0; at < records.length; ) {
    const end = at + HEADER_BYTES + (view.getUint32(at, true) & 0xffffff);
    const kind = view.getUint8(at + HEADER_BYTES - 1);
    const payload = records.subarray(at + HEADER_BYTES, end);
    const isGap = (kind & GAP) !== 0;
    yield {
      source: (["stdout", "stderr", "build"] as const)[kind & 0x0f]!,
      data: isGap ? new Uint8Array() : payload,
      missing: isGap ? new TextDecoder().decode(payload.subarray(8)) : "",
    };
    at = end;
  }
}
