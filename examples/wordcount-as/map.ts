// Counts words: what is between ASCII white space.

import { done, emit } from "./ipdc";
export { ipdc_alloc } from "./ipdc";

const ONE: usize = memory.data<u8>([0x31]);

function isSpace(byte: u8): bool {
  return byte == 0x20 || (byte >= 0x09 && byte <= 0x0d);
}

export function map(ptr: usize, len: u32): void {
  const end = ptr + len;
  let start = ptr;
  for (let at = ptr; at <= end; at++) {
    if (at < end && !isSpace(load<u8>(at))) continue;
    if (at > start) emit(start, <u32>(at - start), ONE, 1);
    start = at + 1;
  }
  done();
}
