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
IPDC_IMPORT_("counter") void ipdc_host_counter_(const void *name, uint32_t name_len, uint64_t by);
IPDC_IMPORT_("file_len") int64_t ipdc_host_file_len_(const void *name, uint32_t name_len);
IPDC_IMPORT_("file_read")
int32_t ipdc_host_file_read_(
    const void *name, uint32_t name_len, uint64_t offset, void *room, uint32_t cap);

/* Writes the first `cap` bytes of the job's `[params]`, one JSON object, to `room`; the answer is how many
 * there are in all. */
IPDC_IMPORT_("params") uint32_t ipdc_params(void *room, uint32_t cap);

/* In the same way, the name of the input that the records come from. It is empty in a job with one input
 * and in `reduce`. */
IPDC_IMPORT_("input") uint32_t ipdc_input(void *room, uint32_t cap);

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

/* Logs a line: `ipdc job logs` shows the last ones of each attempt. */
static inline void ipdc_log(ipdc_bytes line) { ipdc_host_log_(line.ptr, line.len); }

/* Adds `by` to the counter `name`. What the attempts that count have counted is added up and shown with the
 * job. A name has 1 to 64 bytes without control characters; a task may use 32 of them, and the guest is ended
 * for others. Count in a variable of your own, and call this once for many records. */
static inline void ipdc_count(ipdc_bytes name, uint64_t by) {
    ipdc_host_counter_(name.ptr, name.len, by);
}

/* The length in bytes of the side file `name` of `[files]`; -1 when the job has none of the name. */
static inline int64_t ipdc_file_len(ipdc_bytes name) {
    return ipdc_host_file_len_(name.ptr, name.len);
}

/* Writes up to `cap` bytes from `offset` of a side file to `room`; the answer is how many, fewer than `cap`
 * only where the file ends; -1 when the job has none of the name. */
static inline int32_t ipdc_file_read(ipdc_bytes name, uint64_t offset, void *room, uint32_t cap) {
    return ipdc_host_file_read_(name.ptr, name.len, offset, room, cap);
}

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

/* Whether two are the same bytes. */
static inline bool ipdc_is(ipdc_bytes one, ipdc_bytes other) {
    if (one.len != other.len) return false;
    for (uint32_t at = 0; at < one.len; at++) {
        if (one.ptr[at] != other.ptr[at]) return false;
    }
    return true;
}

/* Takes the next value of an object or a list, or the next key of an object, with what parts it from the
 * last one. Of JSON that is known to be well formed, this is enough to find a member. */
static inline ipdc_bytes ipdc_take_json_(ipdc_bytes *json) {
    while (json->len > 0 && (*json->ptr <= ' ' || *json->ptr == ',' || *json->ptr == ':')) {
        ipdc_take_(json, 1);
    }
    uint32_t at = 0, depth = 0;
    bool in_text = false;
    for (; at < json->len; at++) {
        uint8_t byte = json->ptr[at];
        if (byte == '"') in_text = !in_text;
        else if (in_text) at += byte == '\\';
        else if (byte == '{' || byte == '[') depth++;
        else if (byte == '}' || byte == ']') {
            if (depth == 0) break;
            depth--;
        } else if (depth == 0 && (byte <= ' ' || byte == ',' || byte == ':')) break;
    }
    return ipdc_take_(json, at);
}

/* The four digits of an escape as `\u00e9`. */
static inline uint32_t ipdc_hex_(const uint8_t *digits) {
    uint32_t number = 0;
    for (int at = 0; at < 4; at++) {
        uint8_t digit = digits[at];
        number = number << 4 | (digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
    }
    return number;
}

/* Writes a character as UTF-8; where it ends. */
static inline uint8_t *ipdc_put_char_(uint8_t *to, uint32_t c) {
    static const uint8_t first[] = {0, 0xc0, 0xe0, 0xf0};
    int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    *to++ = first[more] | c >> 6 * more;
    while (more-- > 0) *to++ = 0x80 | (c >> 6 * more & 0x3f);
    return to;
}

/* What a JSON text in quotes says, written to `to`, which may lie before it or be where it begins. Anything
 * else as it stands. */
static inline ipdc_bytes ipdc_unquote_(ipdc_bytes json, uint8_t *to) {
    if (json.len < 2 || *json.ptr != '"') return json;
    uint8_t *end = to;
    const uint8_t *from = json.ptr + 1, *quote = json.ptr + json.len - 1;
    while (from < quote) {
        uint8_t byte = *from++;
        if (byte != '\\') {
            *end++ = byte;
            continue;
        }
        switch (byte = *from++) {
        case 'b': *end++ = '\b'; break;
        case 'f': *end++ = '\f'; break;
        case 'n': *end++ = '\n'; break;
        case 'r': *end++ = '\r'; break;
        case 't': *end++ = '\t'; break;
        case 'u': {
            uint32_t c = ipdc_hex_(from);
            from += 4;
            if (c >> 10 == 0xd800 >> 10) { /* The first half of a pair; `\u` and the second follow. */
                c = 0x10000 + ((c & 0x3ff) << 10 | (ipdc_hex_(from + 2) & 0x3ff));
                from += 6;
            }
            end = ipdc_put_char_(end, c);
            break;
        }
        default: *end++ = byte;
        }
    }
    return (ipdc_bytes){to, end - to};
}

/* Finds the param `name`: a text as it is, anything else as JSON; false when it is not set. `room` is for all
 * of the params, and `value` lies in it; where it is too small for them, the guest traps. */
static inline bool ipdc_param(ipdc_bytes name, uint8_t *room, uint32_t cap, ipdc_bytes *value) {
    ipdc_bytes params = {room, ipdc_params(room, cap)};
    if (params.len > cap) __builtin_trap();
    ipdc_take_(&params, 1); /* The brace. */
    ipdc_bytes key;
    while ((key = ipdc_take_json_(&params)).len > 0) {
        bool is_it = ipdc_is(ipdc_unquote_(key, room), name);
        *value = ipdc_take_json_(&params);
        if (is_it) {
            *value = ipdc_unquote_(*value, room);
            return true;
        }
    }
    return false;
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
