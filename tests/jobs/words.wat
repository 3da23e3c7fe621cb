;; A word count's map: each word of the input, with the value "1". Words stand between ASCII white
;; space. A test may set how many rounds of nothing each line costs.
(module
  (import "ipdc" "emit" (func $emit (param i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "1")

  ;; One input at a time: it begins at byte 64, and the memory grows to hold it.
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
    (local.set $rounds (i32.const 0) (; rounds a line ;))
    (block $done
      (loop $round
        (br_if $done (i32.eqz (local.get $rounds)))
        (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
        (br $round))))

  (func $is_space (param $byte i32) (result i32)
    (i32.or
      (i32.eq (local.get $byte) (i32.const 32))
      (i32.lt_u (i32.sub (local.get $byte) (i32.const 9)) (i32.const 5))))

  (func (export "map") (param $at i32) (param $len i32)
    (local $end i32) (local $word i32) (local $byte i32)
    (local.set $end (i32.add (local.get $at) (local.get $len)))
    (local.set $word (local.get $at))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $byte (i32.load8_u (local.get $at)))
        (if (i32.eq (local.get $byte) (i32.const 10)) (then (call $burn)))
        (if (call $is_space (local.get $byte))
          (then
            (if (i32.gt_u (local.get $at) (local.get $word))
              (then
                (call $emit (local.get $word) (i32.sub (local.get $at) (local.get $word))
                  (i32.const 0) (i32.const 1))))
            (local.set $word (i32.add (local.get $at) (i32.const 1)))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $next)))
    (if (i32.gt_u (local.get $end) (local.get $word))
      (then
        (call $emit (local.get $word) (i32.sub (local.get $end) (local.get $word))
          (i32.const 0) (i32.const 1))))))
