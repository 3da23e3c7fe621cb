// Write map, combine and reduce functions for ipdc in AssemblyScript. A whole map:
//
//     import { emit, done } from "./ipdc";
//     export { ipdc_alloc } from "./ipdc";
//
//     export function map(ptr: usize, len: u32): void {
//       …                            // for each record: emit(key, keyLen, value, valueLen)
//       done();
//     }
//
// Keys and values are addresses and lengths: bytes are taken as they are, and nothing is copied but into the
// frame. The contract itself is in docs/guest.md.

@external("ipdc", "flush")
declare function hostFlush(ptr: usize, len: u32): void;
@external("ipdc", "emit")
declare function hostEmit(key: usize, keyLen: u32, value: usize, valueLen: u32): void;
@external("ipdc", "log")
declare function hostLog(ptr: usize, len: u32): void;

/** Bytes of records collected before they are handed to the host. */
const FRAME: u32 = 64 << 10;

const frame: usize = heap.alloc(FRAME);
let used: u32 = 0;

let input: usize = 0;
let room: u32 = 0;

/** The buffer that the host writes the next input into. The host calls this. */
export function ipdc_alloc(len: u32): usize {
  if (len > room || input == 0) {
    if (input != 0) heap.free(input);
    input = heap.alloc(len);
    room = len;
  }
  return input;
}

/** Hands a record to the host, a frame of them at a time. */
export function emit(key: usize, keyLen: u32, value: usize, valueLen: u32): void {
  const needed = 8 + <u64>keyLen + <u64>valueLen;
  if (needed > <u64>(FRAME - used)) done();
  if (needed > <u64>FRAME) {
    hostEmit(key, keyLen, value, valueLen);
    return;
  }
  store<u32>(frame + used, keyLen);
  store<u32>(frame + used + 4, valueLen);
  memory.copy(frame + used + 8, key, keyLen);
  memory.copy(frame + used + 8 + keyLen, value, valueLen);
  used += <u32>needed;
}

/** Hands over what was emitted. Each exported function ends with it. */
export function done(): void {
  if (used > 0) hostFlush(frame, used);
  used = 0;
}

/** Logs a line; of an attempt that fails, `ipdc job logs` shows the last ones. */
export function log(line: string): void {
  const text = String.UTF8.encode(line);
  hostLog(changetype<usize>(text), text.byteLength);
}

/** The key and the values of the group that `combine` or `reduce` is called with. */
export class Group {
  key: usize;
  keyLen: u32;
  /** Values that `next` has not given. */
  left: u32;
  value: usize = 0;
  valueLen: u32 = 0;
  private rest: usize;

  constructor(ptr: usize) {
    this.keyLen = load<u32>(ptr);
    this.left = load<u32>(ptr + 4);
    this.key = ptr + 8;
    this.rest = this.key + this.keyLen;
  }

  /** Goes to the next value, in (split, offset) order; false when there is none. */
  next(): bool {
    if (this.left == 0) return false;
    this.left -= 1;
    this.valueLen = load<u32>(this.rest);
    this.value = this.rest + 4;
    this.rest = this.value + this.valueLen;
    return true;
  }
}
