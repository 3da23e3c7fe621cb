;; Traps at the first input.
(module
  (memory (export "memory") 1)
  (func (export "ipdc_alloc") (param i32) (result i32)
    (drop (memory.grow (i32.const 128)))
    (i32.const 64))
  (func (export "map") (param i32 i32) unreachable))
