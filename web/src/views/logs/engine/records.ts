// The records of a log, as the wire carries them. `StreamTaskLogsResponse.Chunk` of the proto file defines the format.

import { crc32 } from "./crc32";

export const SOURCES = ["stdout", "stderr", "build"] as const;
export type Source = (typeof SOURCES)[number];
/** The bytes of stdout, stderr and build. */
export type Offsets = readonly [number, number, number];
export const BEGINNING: Offsets = [0, 0, 0];

const HEADER_BYTES = 25;
const CHECKED_AT = 8;
const MAGIC = 0x18;
const GAP = 0x10;

/** The bytes of one read from a task's pipe. */
export interface DataRecord {
  readonly source: number;
  readonly timeMs: number;
  /** How many bytes of the source come before the record. */
  readonly offset: number;
  readonly payload: Uint8Array;
  readonly gap: null;
}

/** Says that bytes of a source are missing from `offset` on. */
export interface GapRecord {
  readonly source: number;
  readonly timeMs: number;
  readonly offset: number;
  readonly gap: { readonly missing: number; readonly reason: string };
}

/** Records that do not have the right format or checksum. A reader asks for the records again. */
export class DamagedRecordsError extends Error {}

/**
 * Yields the records in `bytes`. The payloads are views of `bytes`.
 *
 * @throws DamagedRecordsError - The bytes do not consist of whole records, or a checksum is wrong.
 */
export function* decodeRecords(bytes: Uint8Array): Generator<DataRecord | GapRecord> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length; ) {
    const start = at + HEADER_BYTES;
    if (start > bytes.length) throw new DamagedRecordsError("the data of a log ends in the middle of a record");
    const word = view.getUint32(at, true);
    const end = start + (word & 0xffffff);
    const kind = view.getUint8(at + 24);
    const source = kind & ~GAP;
    const tooShort = kind & GAP && end - start < 8;
    if (word >>> 24 !== MAGIC || end > bytes.length || source >= SOURCES.length || tooShort) {
      throw new DamagedRecordsError("the data of a log contains an invalid record");
    }
    if (crc32(bytes.subarray(at + CHECKED_AT, end)) !== view.getUint32(at + 4, true)) {
      throw new DamagedRecordsError("a record of a log has a wrong checksum");
    }
    const timeMs = readNumber(view, at + 8);
    const offset = readNumber(view, at + 16);
    if (kind & GAP) {
      const reason = new TextDecoder().decode(bytes.subarray(start + 8, end));
      yield { source, timeMs, offset, gap: { missing: readNumber(view, start), reason } };
    } else {
      yield { source, timeMs, offset, payload: bytes.subarray(start, end), gap: null };
    }
    at = end;
  }
}

// All numbers of a log are below 2^53.
function readNumber(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}
