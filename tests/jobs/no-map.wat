;; Has a memory and an allocator, and no function to call.
(module
  (memory (export "memory") 1)
  (func (export "ipdc_alloc") (param i32) (result i32) (i32.const 64)))
