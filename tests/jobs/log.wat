;; Logs a line, some times over, for each call of its map; emits nothing.
(module
  (import "ipdc" "log" (func $log (param i32 i32)))
  (memory (export "memory") 4)
  (data (i32.const 16) "mapping")
  (func (export "ipdc_alloc") (param i32) (result i32)
    (i32.const 64))
  (func (export "map") (param i32 i32)
    (local $left i32)
    (local.set $left (i32.const 2) (; times ;))
    (loop $more
      (call $log (i32.const 16) (i32.const 7))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $more (local.get $left)))))
