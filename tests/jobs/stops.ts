// Emits the words, a line each, that are neither in the side file `stops` (read a few bytes at a time) nor
// shorter than the param `shortest`: the param `mark` and the word, with the name of the input. Counts the others.

import { count, done, emit, file, input, param } from "./ipdc";
export { ipdc_alloc } from "./ipdc";

const PIECE: u32 = 7;

function readStops(): string[] {
  const stops = file("stops")!;
  const bytes = new ArrayBuffer(<i32>stops.len);
  let len: u32 = 0;
  while (len < <u32>bytes.byteLength) len += stops.readAt(len, changetype<usize>(bytes) + len, PIECE);
  if (String.UTF8.decode(bytes) != String.UTF8.decode(stops.bytes())) unreachable();
  return String.UTF8.decode(bytes).split("\n");
}

export function map(ptr: usize, len: u32): void {
  if (file("none") != null) unreachable();
  const least = <i32>parseInt(param("shortest")!);
  const stops = readStops();
  const mark = param("mark")!;
  const from = String.UTF8.encode(input());
  const words = String.UTF8.decodeUnsafe(ptr, len).split("\n");
  // After the last line's end is nothing.
  words.pop();
  let skipped = 0;
  for (let at = 0; at < words.length; at++) {
    if (words[at].length < least || stops.includes(words[at])) {
      skipped++;
      continue;
    }
    const key = String.UTF8.encode(mark + words[at]);
    emit(changetype<usize>(key), key.byteLength, changetype<usize>(from), from.byteLength);
  }
  count("skipped", skipped);
  done();
}
