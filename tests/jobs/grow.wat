;; Takes memory, and writes to it, until it gets no more; then traps.
(module
  (memory (export "memory") 1)
  (func (export "ipdc_alloc") (param i32) (result i32)
    (drop (memory.grow (i32.const 128)))
    (i32.const 64))
  (func (export "map") (param i32 i32)
    (loop $more
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
      (br $more))))
