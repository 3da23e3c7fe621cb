;; A sum of decimal numbers, as the built-in one, that takes its time: a reduce whose worker can be
;; killed in the middle. One call is one key group: [klen][nvalues][key]([vlen][value])*.
(module
  (import "ipdc" "emit" (func $emit (param i32 i32 i32 i32)))
  (memory (export "memory") 1)

  ;; Bytes 0 to 31 are for the sum's digits; one input at a time begins at byte 64.
  (func (export "ipdc_alloc") (param $len i32) (result i32)
    (local $pages i32)
    (local.set $pages
      (i32.sub
        (i32.shr_u (i32.add (local.get $len) (i32.const 65599)) (i32.const 16))
        (memory.size)))
    (if (i32.gt_s (local.get $pages) (i32.const 0))
      (then (drop (memory.grow (local.get $pages)))))
    (i32.const 64))

  (func $burn (local $rounds i32)
    (local.set $rounds (i32.const 0) (; rounds a key ;))
    (block $done
      (loop $round
        (br_if $done (i32.eqz (local.get $rounds)))
        (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
        (br $round))))

  (func $number (param $at i32) (param $end i32) (result i64)
    (local $number i64)
    (block $done
      (loop $digit
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $number
          (i64.add
            (i64.mul (local.get $number) (i64.const 10))
            (i64.extend_i32_u (i32.sub (i32.load8_u (local.get $at)) (i32.const 48)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digit)))
    (local.get $number))

  (func (export "reduce") (param $at i32) (param $len i32)
    (local $key i32) (local $key_len i32) (local $values i32) (local $sum i64)
    (call $burn)
    (local.set $key_len (i32.load (local.get $at)))
    (local.set $values (i32.load offset=4 (local.get $at)))
    (local.set $key (i32.add (local.get $at) (i32.const 8)))
    (local.set $at (i32.add (local.get $key) (local.get $key_len)))
    (block $done
      (loop $value
        (br_if $done (i32.eqz (local.get $values)))
        (local.set $values (i32.sub (local.get $values) (i32.const 1)))
        (local.set $len (i32.load (local.get $at)))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (local.set $sum
          (i64.add
            (local.get $sum)
            (call $number (local.get $at) (i32.add (local.get $at) (local.get $len)))))
        (local.set $at (i32.add (local.get $at) (local.get $len)))
        (br $value)))
    ;; The digits, last first, end at byte 32.
    (local.set $at (i32.const 32))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8
        (local.get $at)
        (i32.add (i32.wrap_i64 (i64.rem_u (local.get $sum) (i64.const 10))) (i32.const 48)))
      (local.set $sum (i64.div_u (local.get $sum) (i64.const 10)))
      (br_if $digit (i64.ne (local.get $sum) (i64.const 0))))
    (call $emit
      (local.get $key) (local.get $key_len)
      (local.get $at) (i32.sub (i32.const 32) (local.get $at)))))
