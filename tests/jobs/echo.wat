;; An item is what it gives; one that begins with `!` traps, one that begins with `?` goes on for ever, one that
;; begins with `~` takes some hundredths of a second.
(module
  (import "ipdc" "emit" (func $emit (param i32 i32 i32 i32)))
  (import "ipdc" "log" (func $log (param i32 i32)))
  (memory (export "memory") 4)
  (global $free (mut i32) (i32.const 1024))
  (func (export "ipdc_alloc") (param $n i32) (result i32)
    (local $at i32)
    (local.set $at (global.get $free))
    (global.set $free (i32.add (global.get $free) (local.get $n)))
    (local.get $at))
  (func (export "run") (param $ptr i32) (param $len i32) (local $rounds i32)
    (if (i32.eq (i32.load8_u (local.get $ptr)) (i32.const 33))
      (then
        (call $log (local.get $ptr) (local.get $len))
        (unreachable)))
    (if (i32.eq (i32.load8_u (local.get $ptr)) (i32.const 63))
      (then (loop $again (br $again))))
    (if (i32.eq (i32.load8_u (local.get $ptr)) (i32.const 126))
      (then
        (local.set $rounds (i32.const 50000000))
        (loop $burn
          (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
          (br_if $burn (local.get $rounds)))))
    (call $emit (local.get $ptr) (local.get $len) (i32.const 0) (i32.const 0))))
