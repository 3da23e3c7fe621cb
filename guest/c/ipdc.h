/* Write map, combine and reduce functions for ipdc in C. Needs no C library:
 *
 *     clang --target=wasm32 -O2 -mbulk-memory -nostdlib -Wl,--no-entry -o map.wasm map.c
 *
 * A whole map:
 *
 *     #include "ipdc.h"
 *
 *     static void lines(ipdc_bytes text) {
 *         ipdc_bytes line;
 *         while (ipdc_next_line(&text, &line)) ipdc_emit(line, IPDC_TEXT("1"));
 *     }
 *     IPDC_MAP(lines)
 *
 * Include it in one file of a module: it defines the module's `ipdc_alloc`. The contract itself is in
 * docs/guest.md. */

#ifndef IPDC_H
#define IPDC_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes of the guest's memory that somebody else owns. */
typedef struct {
    const uint8_t *ptr;
    uint32_t len;
} ipdc_bytes;

/* The values of one key. */
typedef struct {
    ipdc_bytes rest;
    uint32_t left;
} ipdc_values;

/* A literal's bytes, without the zero at its end. */
#define IPDC_TEXT(literal) ((ipdc_bytes){(const uint8_t *)(literal), sizeof(literal) - 1})

/* Exports `void f(ipdc_bytes records)` as `map`. It gets whole records, and emits. */
#define IPDC_MAP(f)                                                           \
    __attribute__((export_name("map"))) void ipdc_map_(const uint8_t *ptr, uint32_t len) { \
        f((ipdc_bytes){ptr, len});                                            \
        ipdc_flush();                                                         \
    }

/* Exports `void f(ipdc_bytes key, ipdc_values values)` as `combine`. It must emit under that key. */
#define IPDC_COMBINE(f) IPDC_GROUP_(f, "combine", ipdc_combine_)

/* Exports `void f(ipdc_bytes key, ipdc_values values)` as `reduce`. */
#define IPDC_REDUCE(f) IPDC_GROUP_(f, "reduce", ipdc_reduce_)

#define IPDC_GROUP_(f, name, symbol)                                          \
    __attribute__((export_name(name))) void symbol(const uint8_t *ptr, uint32_t len) { \
        ipdc_bytes group = {ptr, len};                                        \
        uint32_t key_len = ipdc_take_u32_(&group), count = ipdc_take_u32_(&group); \
        ipdc_bytes key = ipdc_take_(&group, key_len);                         \
        f(key, (ipdc_values){group, count});                                  \
        ipdc_flush();                                                         \
    }

/* What the host has. */
#define IPDC_IMPORT_(name) __attribute__((import_module("ipdc"), import_name(name)))
IPDC_IMPORT_("flush") void ipdc_host_flush_(const void *ptr, uint32_t len);
IPDC_IMPORT_("emit")
void ipdc_host_emit_(const void *key, uint32_t key_len, const void *value, uint32_t value_len);
IPDC_IMPORT_("log") void ipdc_host_log_(const void *ptr, uint32_t len);

/* Bytes of records collected before they are handed to the host. */
enum { IPDC_FRAME = 64 << 10 };

static uint8_t ipdc_frame_[IPDC_FRAME];
static uint32_t ipdc_used_;

/* Hands over what was emitted. The functions that the macros export end with it. */
static inline void ipdc_flush(void) {
    if (ipdc_used_ > 0) ipdc_host_flush_(ipdc_frame_, ipdc_used_);
    ipdc_used_ = 0;
}

static inline void ipdc_put_(const void *bytes, uint32_t len) {
    __builtin_memcpy(ipdc_frame_ + ipdc_used_, bytes, len);
    ipdc_used_ += len;
}

/* Hands a record to the host, a frame of them at a time. */
static inline void ipdc_emit(ipdc_bytes key, ipdc_bytes value) {
    uint64_t needed = 8 + (uint64_t)key.len + value.len;
    if (needed > IPDC_FRAME - ipdc_used_) ipdc_flush();
    if (needed > IPDC_FRAME) {
        ipdc_host_emit_(key.ptr, key.len, value.ptr, value.len);
        return;
    }
    ipdc_put_(&key.len, 4);
    ipdc_put_(&value.len, 4);
    ipdc_put_(key.ptr, key.len);
    ipdc_put_(value.ptr, value.len);
}

/* Logs a line; of an attempt that fails, `ipdc job logs` shows the last ones. */
static inline void ipdc_log(ipdc_bytes line) { ipdc_host_log_(line.ptr, line.len); }

/* Takes the first `len` bytes. */
static inline ipdc_bytes ipdc_take_(ipdc_bytes *from, uint32_t len) {
    ipdc_bytes taken = {from->ptr, len};
    from->ptr += len;
    from->len -= len;
    return taken;
}

/* Takes a number; the host writes them little-endian, as wasm reads them. */
static inline uint32_t ipdc_take_u32_(ipdc_bytes *from) {
    uint32_t number;
    __builtin_memcpy(&number, ipdc_take_(from, 4).ptr, 4);
    return number;
}

/* Takes the next line, without its end; false when there is none. */
static inline bool ipdc_next_line(ipdc_bytes *rest, ipdc_bytes *line) {
    if (rest->len == 0) return false;
    uint32_t len = 0;
    while (len < rest->len && rest->ptr[len] != '\n') len++;
    *line = ipdc_take_(rest, len);
    if (rest->len > 0) ipdc_take_(rest, 1);
    return true;
}

/* Takes the next value, in (split, offset) order; false when there is none. */
static inline bool ipdc_next_value(ipdc_values *values, ipdc_bytes *value) {
    if (values->left == 0) return false;
    values->left--;
    uint32_t len = ipdc_take_u32_(&values->rest);
    *value = ipdc_take_(&values->rest, len);
    return true;
}

/* Where the linker says that nothing of ours lies any more. */
extern uint8_t __heap_base;

/* The buffer that the host writes the next input into: all memory after what the module has. The host
 * calls this. Where it does not fit the job's limit, the host finds no room there and says so. */
__attribute__((export_name("ipdc_alloc"))) uint8_t *ipdc_alloc(uint32_t len) {
    const uint64_t page = 64 << 10;
    uint64_t end = (uint64_t)(uintptr_t)&__heap_base + len;
    uint64_t have = __builtin_wasm_memory_size(0) * page;
    if (end > have) __builtin_wasm_memory_grow(0, (end - have + page - 1) / page);
    return &__heap_base;
}

#endif
