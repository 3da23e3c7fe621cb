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
@external("ipdc", "counter")
declare function hostCounter(name: usize, nameLen: u32, by: u64): void;
@external("ipdc", "params")
declare function hostParams(ptr: usize, cap: u32): u32;
@external("ipdc", "input")
declare function hostInput(ptr: usize, cap: u32): u32;
@external("ipdc", "file_len")
declare function hostFileLen(name: usize, nameLen: u32): i64;
@external("ipdc", "file_read")
declare function hostFileRead(name: usize, nameLen: u32, offset: u64, ptr: usize, cap: u32): i32;

/** Bytes of records collected before they are handed to the host. */
const FRAME: u32 = 64 << 10;

const frame: usize = heap.alloc(FRAME);
let used: u32 = 0;

let given: usize = 0;
let room: u32 = 0;

/** The buffer that the host writes the next input into. The host calls this. */
export function ipdc_alloc(len: u32): usize {
  if (len > room || given == 0) {
    if (given != 0) heap.free(given);
    given = heap.alloc(len);
    room = len;
  }
  return given;
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
  copy(frame + used + 8, key, keyLen);
  copy(frame + used + 8 + keyLen, value, valueLen);
  used += <u32>needed;
}

// To copy as many bytes as only the run can tell, wasm has an instruction that the host carries out in a call
// of its own; a few are there sooner in two pieces that overlap.
// @ts-ignore: decorator
@inline
function copy(to: usize, from: usize, len: u32): void {
  if (len > 16) {
    memory.copy(to, from, len);
  } else if (len > 8) {
    store<u64>(to, load<u64>(from));
    store<u64>(to + len - 8, load<u64>(from + len - 8));
  } else if (len > 3) {
    store<u32>(to, load<u32>(from));
    store<u32>(to + len - 4, load<u32>(from + len - 4));
  } else if (len > 0) {
    store<u8>(to, load<u8>(from));
    store<u8>(to + len / 2, load<u8>(from + len / 2));
    store<u8>(to + len - 1, load<u8>(from + len - 1));
  }
}

/** Hands over what was emitted. Each exported function ends with it. */
export function done(): void {
  if (used > 0) hostFlush(frame, used);
  used = 0;
}

/** Logs a line: `ipdc job logs` shows the last ones of each attempt. */
export function log(line: string): void {
  const text = String.UTF8.encode(line);
  hostLog(changetype<usize>(text), text.byteLength);
}

/**
 * Adds `by` to the counter `name`. What the attempts that count have counted is added up and shown with the job.
 * A name has 1 to 64 bytes without control characters; a task may use 32 of them, and the guest is ended for
 * others. Count in a variable of your own, and call this once for many records.
 */
export function count(name: string, by: u64): void {
  const text = String.UTF8.encode(name);
  hostCounter(changetype<usize>(text), text.byteLength, by);
}

/** The job's `[params]`: one JSON object. */
export function params(): string {
  const json = new ArrayBuffer(hostParams(0, 0));
  hostParams(changetype<usize>(json), json.byteLength);
  return String.UTF8.decode(json);
}

/**
 * One of the job's params: a text as it is, anything else as JSON. Null when it is not set. Looked up anew in
 * each call: keep it if you need it for every record.
 */
export function param(name: string): string | null {
  const json = new Json(params());
  for (let key = json.next(); key != null; key = json.next()) {
    const value = json.next();
    if (key == name) return value;
  }
  return null;
}

/** The name of the input that the records come from. Empty in a job with one input and in `reduce`. */
export function input(): string {
  const name = new ArrayBuffer(hostInput(0, 0));
  hostInput(changetype<usize>(name), name.byteLength);
  return String.UTF8.decode(name);
}

/** The job's side file `name` of `[files]`; null when it has none of this name. */
export function file(name: string): File | null {
  const text = String.UTF8.encode(name);
  const len = hostFileLen(changetype<usize>(text), text.byteLength);
  return len < 0 ? null : new File(text, len);
}

/** A side file. It is read from its blocks as it is asked for. */
export class File {
  /** `len` is its length in bytes. */
  constructor(private name: ArrayBuffer, readonly len: u64) {}

  /** Fills `cap` bytes at `room` from `offset`, less only where the file ends; how many bytes that were. */
  readAt(offset: u64, room: usize, cap: u32): u32 {
    return hostFileRead(changetype<usize>(this.name), this.name.byteLength, offset, room, cap);
  }

  /** All of it. */
  bytes(): ArrayBuffer {
    const bytes = new ArrayBuffer(<i32>this.len);
    this.readAt(0, changetype<usize>(bytes), bytes.byteLength);
    return bytes;
  }
}

// The keys and values of a JSON object that is known to be well formed, one after the other.
class Json {
  // After the brace.
  private at: i32 = 1;

  constructor(private json: string) {}

  /** A text as it is, anything else as JSON; null at the object's end. */
  next(): string | null {
    while (isBetween(this.code())) this.at++;
    const start = this.at;
    if (this.code() == QUOTE) return this.text();
    for (let depth = 0; this.at < this.json.length; this.at++) {
      const c = this.code();
      if (depth == 0 && (c == CLOSE || isBetween(c))) break;
      if (c == QUOTE) {
        this.text();
        this.at--;
      } else if (c == OPEN || c == OPEN_LIST) depth++;
      else if (c == CLOSE || c == CLOSE_LIST) depth--;
    }
    return this.at == start ? null : this.json.substring(start, this.at);
  }

  // The text that begins here, without its quotes and escapes.
  private text(): string {
    const codes = new Array<i32>();
    for (this.at++; this.code() != QUOTE; this.at++) {
      if (this.code() != BACKSLASH) {
        codes.push(this.code());
        continue;
      }
      this.at++;
      const known = "bfnrt".indexOf(this.json.charAt(this.at));
      if (known >= 0) {
        codes.push("\b\f\n\r\t".charCodeAt(known));
      } else if (this.json.charAt(this.at) == "u") {
        // Of a pair, each half is a character of its own, here as there.
        codes.push(<i32>parseInt(this.json.substr(this.at + 1, 4), 16));
        this.at += 4;
      } else {
        codes.push(this.code());
      }
    }
    this.at++;
    return String.fromCharCodes(codes);
  }

  // The character that is next; -1 at the end.
  private code(): i32 {
    return this.json.charCodeAt(this.at);
  }
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN = 0x7b;
const CLOSE = 0x7d;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;

// Whether it may be between a key and its value, or between them and the next: space, comma, colon.
function isBetween(code: i32): bool {
  return (code >= 0 && code <= 0x20) || code == 0x2c || code == 0x3a;
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
