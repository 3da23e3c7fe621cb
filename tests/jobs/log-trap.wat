;; Says so in its log, and traps, in a function of its own.
(module
  (import "ipdc" "log" (func $log (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "about to trap")
  (func (export "ipdc_alloc") (param i32) (result i32)
    (drop (memory.grow (i32.const 128)))
    (i32.const 64))
  (func $fail (call $log (i32.const 16) (i32.const 13)) unreachable)
  (func $map (export "map") (param i32 i32) (call $fail)))
