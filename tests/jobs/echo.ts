// `combine` and `reduce` emit each value of a key again.

import { done, emit, Group } from "./ipdc";
export { ipdc_alloc } from "./ipdc";

function echo(ptr: usize): void {
  const group = new Group(ptr);
  while (group.next()) emit(group.key, group.keyLen, group.value, group.valueLen);
  done();
}

export function combine(ptr: usize, len: u32): void {
  echo(ptr);
}

export function reduce(ptr: usize, len: u32): void {
  echo(ptr);
}
